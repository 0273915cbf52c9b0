"""The CUDA operators with their launchers, on CPU tensors, against the reference."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FUZZ = HERE.parents[1] / "tests/fuzz/fuzz_ops.py"
_spec = importlib.util.spec_from_file_location("emulated_ops", HERE / "emulated_ops.py")
emulated_ops = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(emulated_ops)
OPERATORS = ["codebook_lookup", "codebook_sums", "topk_encode", "batchtopk_encode"]
OPERATORS += ["threshold_encode", "topk_select", "sparse_decode", "sparse_decode_backward"]
OPERATORS += ["sparse_encode_backward", "spread", "interp", "cg_step", "toeplitz_expand"]
OPERATORS += ["toeplitz_turn", "toeplitz_unturn", "toeplitz_filter", "toeplitz_reduce"]


def test_launches_are_rewritten():
    source = "  a::b<T, 4>\n      <<<n, kThreads, 0, s>>>(x,\n y);\n  c<<<f(1), 2>>>(z);"
    assert emulated_ops.rewrite(source) == (
        "  emulator::Launch(n, kThreads, 0, s).run(a::b<T, 4>, x,\n y);\n"
        "  emulator::Launch(f(1), 2).run(c, z);"
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs g++")
def test_random_cases_of_every_operator(order):
    # In a process of its own: what a library registers can't be taken back.
    command = [sys.executable, str(FUZZ), "--library", str(emulated_ops.build()), "--cases", "4"]
    environment = {**os.environ, "SAGITTAL_EMULATE_ORDER": str(order)}
    done = subprocess.run(
        [*command, "--seed", str(order), *OPERATORS],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"cases": 4') == len(OPERATORS)
