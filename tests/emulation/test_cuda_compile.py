"""Every .cu compiles for every architecture without spills; the parser of spills sees them."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("cuda_compile", HERE / "cuda_compile.py")
cuda_compile = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cuda_compile)
SOURCES = sorted((HERE.parents[1] / "csrc").rglob("*.cu"))


def test_spills_are_read_from_the_log():
    log = """ptxas info    : Function properties for _Za
    8 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Function properties for _Zb
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""
    assert cuda_compile.spills(log) == {"_Za": 32, "_Zb": 0}


@pytest.mark.study
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("architecture", cuda_compile.ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_compiles_without_spills(source, architecture):
    assert cuda_compile.compile_source(source, architecture)
