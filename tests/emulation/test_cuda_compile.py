"""Every .cu compiles for every architecture without spills; what is built, and when."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("cuda_compile", HERE / "cuda_compile.py")
cuda_compile = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cuda_compile)
build_config = cuda_compile.build_config


def test_the_log_is_read():
    log = """ptxas info    : Function properties for _Za
    8 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 376 bytes cmem[0]
ptxas info    : Function properties for _Zb
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers
"""
    assert cuda_compile.read_log(log) == {"_Za": (32, 40), "_Zb": (0, 12)}


def test_every_cuda_source_is_listed():
    root = cuda_compile.ROOT
    found = {path.relative_to(root).as_posix() for path in (root / "csrc").rglob("*.cu")}
    assert found
    assert found == set(cuda_compile.SOURCES)


def test_lists_of_architectures():
    assert build_config.code_flags("8.0;9.0a") == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
    ]
    assert build_config.code_flags("10.0+PTX 12.0")[0] == (
        "-gencode=arch=compute_100,code=[sm_100,compute_100]"
    )
    for wrong in ("", "Hopper", "9", "9.0,"):
        with pytest.raises(ValueError, match="TORCH_CUDA_ARCH_LIST must be like"):
            build_config.code_flags(wrong)


def test_a_toolkit_alone_is_no_reason_to_compile(monkeypatch):
    for name in ("SAGITTAL_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(build_config, "nvcc", lambda: "nvcc")
    assert not build_config.wants_cuda(gpu=False)
    assert build_config.wants_cuda(gpu=True)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    assert build_config.wants_cuda(gpu=False)
    monkeypatch.setenv("SAGITTAL_CUDA", "0")
    assert not build_config.wants_cuda(gpu=True)
    monkeypatch.setattr(build_config, "nvcc", lambda: None)
    assert not build_config.wants_cuda(gpu=True)
    monkeypatch.setenv("SAGITTAL_CUDA", "1")
    assert build_config.wants_cuda(gpu=False)  # and the build says that there is no nvcc
    with pytest.raises(RuntimeError, match="nvcc is neither in CUDA_HOME nor on PATH"):
        build_config.build_cuda(Path(), Path("x.so"), Path(), "9.0")
    monkeypatch.setenv("SAGITTAL_CUDA", "yes")
    with pytest.raises(ValueError, match="SAGITTAL_CUDA must be 0, 1 or auto; got 'yes'"):
        build_config.wants_cuda(gpu=True)


@pytest.mark.study
@pytest.mark.skipif(build_config.nvcc() is None, reason="needs nvcc")
@pytest.mark.parametrize("architecture", cuda_compile.ARCHITECTURES)
@pytest.mark.parametrize("source", cuda_compile.SOURCES)
def test_compiles_without_spills(source, architecture):
    assert cuda_compile.compile_source(source, architecture)


@pytest.mark.study
@pytest.mark.skipif(build_config.nvcc() is None, reason="needs nvcc")
def test_the_module_loads_beside_this_torch():
    assert not {"codebook_lookup", "codebook_sums"} & set(cuda_compile.without_kernel("9.0"))
