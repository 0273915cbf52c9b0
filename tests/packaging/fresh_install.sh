#!/usr/bin/env bash
# A user's install: a clone, a venv that holds torch and nothing else, one `pip install -e`, kernels
# compiled at run time, two training steps.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset SAGITTAL_NO_LOCAL_DEPS

if [ -d "$root/.git" ]; then
    git -c safe.directory='*' clone -q "$root" "$work/clone"
else # sources without a history: the packages ask for .git to know a checkout
    mkdir -p "$work/clone/.git"
    tar -C "$root" --exclude=./.venv --exclude=./build --exclude=./outputs -cf - . | tar -C "$work/clone" -xf -
fi
"${PYTHON:-$(command -v python3.11 || command -v python3)}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q "${TORCH:-torch==2.13.0}"
cd "$work/clone"
"$work/venv/bin/pip" install -q -e packages/mri
"$work/venv/bin/pip" check
"$work/venv/bin/python" - "$work/clone" <<'PY'
import sys
import sagittal_core, sagittal_mri
for module in (sagittal_core, sagittal_mri):
    assert module.__file__.startswith(sys.argv[1]), f"{module.__name__} is a snapshot: {module.__file__}"
PY
"$work/venv/bin/sagittal-mri" --help >"$work/help.txt"
SAGITTAL_REQUIRE_NATIVE=1 TORCH_EXTENSIONS_DIR="$work/jit" WANDB_MODE=offline \
    "$work/venv/bin/sagittal-mri" fit -c packages/mri/configs/demo_selfsupervised.yaml \
    --runs_dir "$work/runs" --trainer.max_steps 2
du -sm "$work/venv" | awk '{print "fresh install: venv " $1 " MB"}'
