"""Which kernels run, in processes of their own."""

import importlib.util
import os
import subprocess
import sys

import pytest

CODE = """
import torch
from sagittal_core import ops
x = ops.cg_solve(lambda v: v, torch.ones(1, 4), 1.0)
assert torch.equal(x, torch.full((1, 4), 0.5)), x
print("mode", ops.backend_info().mode, ops.native_call_count() > 0)
"""


def run(code=CODE, **environment):
    # The outer run may ask for native kernels; each of these asks for its own mode.
    clean = {k: v for k, v in os.environ.items() if k != "SAGITTAL_REQUIRE_NATIVE"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_jit(native):
    if native.mode == "reference":
        pytest.skip(f"no compiled kernels: {native.reason}")
    found = run(SAGITTAL_OPS="jit", SAGITTAL_REQUIRE_NATIVE="1")
    assert "mode jit True" in found.stdout, found.stderr


def test_reference_is_silent_when_asked_for():
    found = run(SAGITTAL_OPS="reference")
    assert "mode reference False" in found.stdout, found.stderr
    assert "Warning" not in found.stderr


def test_installed():
    spec = importlib.util.find_spec("sagittal_kernels")
    if spec is None:
        pytest.skip("sagittal_kernels is not installed")
    found = run(SAGITTAL_OPS="aot", SAGITTAL_REQUIRE_NATIVE="1")
    assert "mode aot True" in found.stdout, found.stderr


@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_instruction_sets(isa, native):
    if native.mode == "reference":
        pytest.skip(f"no compiled kernels: {native.reason}")
    if isa == "avx2" and native.isa == "portable":
        pytest.skip("this machine has no AVX2")
    code = """
import torch
from sagittal_core import ops
from sagittal_core.ops import reference
omega = torch.rand(300, 2, dtype=torch.float64) * 3
x = torch.randn(2, 20, 30, dtype=torch.complex128)
wanted = reference.nudft_type2(x, omega)
assert (ops.nufft_type2(x, omega, 1e-6) - wanted).norm() < 1e-6 * wanted.norm()
print("isa", ops.backend_info().isa)
"""
    found = run(code, SAGITTAL_ISA=isa)
    assert f"isa {isa}" in found.stdout, found.stderr


def test_reference_warns_once_when_nobody_asked_for_it(tmp_path):
    found = run(
        "from sagittal_core.ops import _build, backend_info\n"
        "def fail():\n    raise _build.Unavailable('tried')\n"
        "_build.find_installed = _build.find_or_build = fail\n"
        "backend_info(); print(backend_info().reason)",
        SAGITTAL_OPS="auto",
    )
    assert found.stdout.strip() == "aot: tried; jit: tried"
    assert found.stderr.count("RuntimeWarning") == 1
    assert "pip install --no-build-isolation --no-deps ." in found.stderr


def test_no_cuda_kernels_says_why_and_is_an_error_when_asked_for(native):
    if native.mode == "reference":
        pytest.skip(f"no compiled kernels: {native.reason}")
    code = (
        "from sagittal_core.ops import _build, backend_info\n"
        "def fail(module=''):\n"
        "    if module in ('', '_C_cuda'):\n        raise _build.Unavailable('tried')\n"
        "    return found(module)\n"
        "found, _build.find_or_build_cuda = _build.find_installed, fail\n"
        "_build.find_installed = lambda module='_C_cpu': fail(module)\n"
        "print(backend_info().cuda, backend_info().cuda_reason)"
    )
    assert run(code).stdout.strip() == "False tried"
    assert run(code, SAGITTAL_CUDA="0").stdout.strip() == "False SAGITTAL_CUDA=0"
    assert "no CUDA kernels: tried" in run(code, SAGITTAL_CUDA="1").stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SAGITTAL_OPS": "reference", "SAGITTAL_REQUIRE_NATIVE": "1"}, "no compiled kernels"),
        ({"SAGITTAL_OPS": "fastest"}, "SAGITTAL_OPS must be one of"),
    ],
)
def test_impossible_wishes_are_errors(environment, message):
    found = run(**environment)
    assert found.returncode != 0
    assert message in found.stderr


def test_another_abi_number_is_refused_with_both_numbers(tmp_path):
    from sagittal_core.ops import _build, _library

    library = tmp_path / "old.so"
    library.write_bytes(b"\0sagittal_kernels_abi=999;\0")
    with pytest.raises(
        _build.Unavailable, match=f"999, sagittal_core expects {_library.ABI_VERSION}"
    ):
        _build._check_abi(library)
