#!/usr/bin/env bash
# Builds the wheel of this machine, looks at it, and uses it as somebody would who has neither this tree nor a compiler: installed into an environment
# of its own, run in an empty folder. Third-party packages are those of the environment of this Python, so that nothing is downloaded.
#
#     bash scripts/check_wheel.sh [python]
set -euo pipefail
tree=$(cd "$(dirname "$0")/.." && pwd)
python=$(cd "$(dirname "${1:-$tree/.venv/bin/python}")" && pwd)/$(basename "${1:-python}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The folder build/ of the editable install is the same build: what has not changed is not compiled again.
"$python" -m pip wheel -q --no-deps --no-build-isolation --disable-pip-version-check -w "$work" "$tree"
wheel=$(ls "$work"/*.whl)
"$python" -m auditwheel show "$wheel" 2>/dev/null | grep -o '"manylinux[^"]*"' | head -1 | sed 's/^/auditwheel: /'
"$python" - "$wheel" <<'PY'
import sys, zipfile
names = zipfile.ZipFile(sys.argv[1]).namelist()
for wanted in ("_native.pyi", "py.typed", "weights/default.safetensors", "bench/report.js", "LICENSE", "NOTICE"):
    assert any(name.endswith(wanted) for name in names), f"{wanted} is not in the wheel"
assert not [name for name in names if name.startswith(("tests/", "native/", "docs/"))], "the wheel holds what is not the package"
PY

"$python" -m venv --without-pip "$work/bare"
site=$("$work/bare/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
"$python" -c "import sys; print(*[path for path in sys.path if path.endswith('site-packages')], sep='\n')" > "$site/third_party.pth"
"$python" -m pip --python "$work/bare/bin/python" install -q --no-deps --no-index --disable-pip-version-check --ignore-installed "$wheel"
mkdir "$work/elsewhere" && cd "$work/elsewhere"
where=$(env -i PATH=/nowhere "$work/bare/bin/python" -I -c "import learn2splat; print(learn2splat.__file__)")
case $where in "$site"/*) ;; *) echo "learn2splat was imported from $where and not from the wheel"; exit 1 ;; esac
env -i PATH=/nowhere HOME="$work" "$work/bare/bin/python" -I "$work/bare/bin/learn2splat" demo --seconds 2 --out demo > log 2>&1 || { cat log; exit 1; }
test -s demo/report.html -a -s demo/point_cloud.ply
echo "$(basename "$wheel") installs and runs the demo without this tree and without a compiler"
