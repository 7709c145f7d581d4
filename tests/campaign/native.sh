#!/usr/bin/env bash
# The native core under a sanitizer: a build of its own in runs/campaign, and its tests with it, hostile arrays among them.
#     bash tests/campaign/native.sh address,undefined    or    thread
set -euo pipefail
cd "$(dirname "$0")/../.."
kind=${1:-address,undefined}
python=${PYTHON:-.venv/bin/python}
folder=$PWD/runs/campaign/native-${kind%%,*}
flags="-fsanitize=$kind -fno-omit-frame-pointer -g1 -O1"
[ "$kind" = thread ] || flags="$flags -fno-sanitize-recover=undefined"
cmake -S . -B "$folder" -G Ninja -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" -DSKBUILD_PROJECT_NAME=learn2splat \
  -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="$flags" -DCMAKE_SHARED_LINKER_FLAGS="-fsanitize=$kind" -DCMAKE_MODULE_LINKER_FLAGS="-fsanitize=$kind" >/dev/null
nice cmake --build "$folder" --target _native -j "${JOBS:-1}" >/dev/null
# A copy of the package with that module in it, found before the installed one.
mkdir -p "$folder/package"
rm -rf "$folder/package/learn2splat"
cp -r src/learn2splat "$folder/package/learn2splat"
cp "$folder"/_native*.so "$folder/package/learn2splat/"
case $kind in
  thread) runtime=libtsan.so ;;
  *) runtime="libasan.so libubsan.so" ;;
esac
preload=""
for each in $runtime libstdc++.so; do preload="$preload $(g++ -print-file-name=$each)"; done
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS="halt_on_error=0 exitcode=0 report_signal_unsafe=0"
export PYTHONPATH="$folder/package" LEARN2SPLAT_NUM_THREADS=$([ "$kind" = thread ] && echo 3 || echo 2) OMP_NUM_THREADS=1
LD_PRELOAD="${preload# }" "$python" -S -c pass
LD_PRELOAD="${preload# }" "$python" -m pytest -q -s -p no:cacheprovider -p no:xdist "${@:2}"
