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
# The lookup without and with tensor cores: the same bits, more launches where they serve.
TENSOR_CORES = """
import os, sys, torch
from sagittal_core.ops import _library
torch.ops.load_library(sys.argv[1])
ops = torch.ops.sagittal

def run(wanted, *given):
    os.environ["SAGITTAL_TENSOR_CORES"] = wanted
    before = ops._native_call_count()
    found = ops.codebook_lookup(*given)
    return found, ops._native_call_count() - before

for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
    z, codebook = torch.randn(150, 40).to(dtype), torch.randn(300, 40).to(dtype)
    own = torch.randn(150, 300, dtype=torch.promote_types(dtype, torch.float32))
    for bias in (None, own[0], own):
        for k in (1, 2):
            (wanted, plain), (found, launches) = (run(c, z, codebook, bias, k) for c in "01")
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
            assert launches - plain == (3 if k == 1 and dtype != torch.float64 else 0)
assert run("1", z[:0].float(), codebook.float(), None, 1)[0][0].shape == (0, 1)
try:
    run("yes", z, codebook, None, 1)
except RuntimeError as error:
    assert "SAGITTAL_TENSOR_CORES must be 0 or 1; got yes" in str(error)
    print("refused")
"""
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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs g++")
def test_tensor_cores_only_where_they_are_asked_for():
    command = [sys.executable, "-c", TENSOR_CORES, str(emulated_ops.build())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs g++")
def test_random_cases_by_tensor_cores(order):
    command = [sys.executable, str(FUZZ), "--library", str(emulated_ops.build()), "--cases", "20"]
    chosen = {"SAGITTAL_EMULATE_ORDER": str(order), "SAGITTAL_TENSOR_CORES": "1"}
    done = subprocess.run(
        [*command, "--seed", str(order), "codebook_lookup"],
        env={**os.environ, **chosen},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"cases": 20' in done.stdout
