#!/usr/bin/env bash
# Do the oldest versions that pyproject.toml allows still work? An environment of exactly those (torch apart: give another with TORCH=...), and the
# tests that lean on them most.   usage: scripts/check_lower_bounds.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-$(mktemp -d)}
python3 -m venv "$folder/venv"
bin=$folder/venv/bin
"$bin"/pip install -q uv
echo "${TORCH:-torch==2.13.0}" > "$folder/torch.txt"
"$bin"/uv pip compile -q --resolution lowest-direct --override "$folder/torch.txt" pyproject.toml | sed 's/ .*//; /^#/d; /^$/d; /^nvidia-/d; /^cuda-/d; /^triton/d' > "$folder/bounds.txt"
"$bin"/pip install -q -r "$folder/bounds.txt"
"$bin"/pip install -q "scikit-build-core>=0.11" "nanobind>=2.4,<4" "cmake>=3.25" ninja pytest hypothesis torchmetrics
"$bin"/pip install -q --no-build-isolation --no-deps .
"$bin"/pip list --format freeze | grep -iE "^(torch|numpy|scipy|safetensors|filelock|pycolmap|plyfile|pillow|tyro|rich|imageio|matplotlib)="
OMP_NUM_THREADS=1 "$bin"/python -m pytest -q -p no:cacheprovider tests/scenes --deselect tests/scenes/test_angle.py::test_seen_points_against_a_plain_projection tests/gaussians/test_ply.py tests/fit/test_plan.py tests/test_files.py tests/cli/test_fit_command.py tests/cli/test_any_splat.py "${@:2}"
