"""CUDA kernels, compiled by g++ and run on fibers, against dense sums in three orders."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from sagittal_core.ops import reference_codebook as reference

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
WITHOUT_BARRIER, WITH_BARRIER, DIVERGENT, RETURNED_EARLY, THROWS, COLLECTIVES = range(6)
OUTSIDE_SHARED, OUTSIDE_STACK = 6, 7


@pytest.fixture(scope="session")
def library(emulated):
    return emulated("codebook_emulated.cpp")


def pointer(tensor):
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def sizes(*numbers):
    return [ctypes.c_int64(number) for number in numbers]


def run_lookup(library, order, z, codebook, bias=None, k=1):
    scores = torch.full((len(z), k), torch.nan, dtype=reference.scores_dtype(z))
    indices = torch.full((len(z), k), -1)
    faults = (ctypes.c_int * 3)()
    shape = sizes(len(z), len(codebook), z.shape[1], k)
    shared = int(bias is not None and bias.dim() == 1)
    tensors = [pointer(z), pointer(codebook), pointer(bias), shared]
    out = [pointer(scores), pointer(indices), faults]
    kind = TYPES.index(z.dtype)
    error = library.emulate_lookup(kind, *tensors, *shape, *out, order, 7)
    assert error is None, error
    return indices, scores, tuple(faults)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 3, 5), (1, 1, 1), (3, 2, 0), (135, 133, 37)], ids=str)
def test_lookup_on_small_integers_is_exact(library, order, dtype, shape):
    # Small integers: scores are exact and full of ties, which go to the lowest index.
    rows, size, width = shape
    torch.manual_seed(0)
    z = torch.randint(-2, 3, (rows, width)).to(dtype)
    codebook = torch.randint(-1, 2, (size, width)).to(dtype)
    k = min(2, size)
    for bias in (None, torch.randint(-2, 3, (size,)), torch.randint(-2, 3, (rows, size))):
        given = None if bias is None else bias.to(reference.scores_dtype(z))
        indices, scores, faults = run_lookup(library, order, z, codebook, given, k)
        wide = codebook.double()
        dense = z.double() @ wide.T - 0.5 * wide.square().sum(1) + (0 if bias is None else bias)
        wanted = dense.sort(dim=1, descending=True, stable=True)
        assert torch.equal(indices, wanted.indices[:, :k])
        assert torch.equal(scores.double(), wanted.values[:, :k])
        assert faults == (0, 0, 0)


def test_lookup_reports_what_is_not_finite(library, order):
    z, codebook, bias = torch.ones(9, 5), torch.ones(7, 5), torch.zeros(7)
    for place, tensor in enumerate((z, codebook, bias)):
        tensor.view(-1)[-1] = torch.nan
        assert run_lookup(library, order, z, codebook, bias)[2][place] == 1
        tensor.view(-1)[-1] = 0
    assert run_lookup(library, order, z, codebook, bias)[2] == (0, 0, 0)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 3, 5), (1, 1, 1), (300, 5, 33), (200, 150, 3)], ids=str)
def test_sums(library, order, dtype, shape):
    rows, size, width = shape
    torch.manual_seed(0)
    z = torch.randint(-3, 4, (rows, width)).to(dtype)  # exact sums
    codes = torch.randint(0, size, (rows,))
    if rows:
        codes[: rows // 2] = size - 1  # one code over several chunks
    ordered = codes.sort(stable=True)
    found = torch.full((size, width), torch.nan, dtype=reference.scores_dtype(z))
    counts, outside = torch.full((size,), -1), ctypes.c_int(0)
    tensors = [pointer(z), pointer(ordered.indices), pointer(ordered.values)]
    out = [pointer(found), pointer(counts), ctypes.byref(outside)]
    kind = TYPES.index(dtype)
    error = library.emulate_sums(kind, *tensors, *sizes(rows, size, width), *out, order, 7)
    assert error is None, error
    one_hot = torch.nn.functional.one_hot(codes, size).double()
    assert torch.equal(found.double(), one_hot.T @ z.double())
    assert torch.equal(counts, one_hot.sum(0).long())
    assert outside.value == 0


def probe(library, which, order, salt=0):
    out = torch.full((64,), -1, dtype=torch.int32)
    return library.emulate_probe(which, pointer(out), salt, order, 7), out.tolist()


def test_a_missing_barrier_makes_results_depend_on_the_order(library):
    results = {}
    for which in (WITHOUT_BARRIER, WITH_BARRIER):
        found = [probe(library, which, order, salt=1000 * (order + 1)) for order in range(3)]
        right = [[63 - t + 1000 * (order + 1) for t in range(64)] for order in range(3)]
        results[which] = [out == want for (_, out), want in zip(found, right, strict=True)]
    assert results == {WITHOUT_BARRIER: [False] * 3, WITH_BARRIER: [True] * 3}


def test_errors_on_fibers_are_reported(library, order):
    assert b"divergent barrier" in probe(library, DIVERGENT, order)[0]
    assert b"divergent barrier" in probe(library, RETURNED_EARLY, order)[0]
    assert probe(library, THROWS, order)[0] == b"thrown by thread 9"
    assert probe(library, WITH_BARRIER, order)[0] is None  # usable afterwards


def test_shuffles_votes_and_atomics(library, order):
    assert probe(library, COLLECTIVES, order) == (None, [496 * 100 + 64] * 64)


@pytest.mark.skipif(
    os.environ.get("SAGITTAL_EMULATE_SANITIZED") != "1", reason="needs make emulate-asan"
)
@pytest.mark.parametrize("which", [OUTSIDE_SHARED, OUTSIDE_STACK])
def test_the_sanitizer_sees_what_threads_do_on_their_stacks(library, which, order):
    # In a process of its own, which it ends.
    code = f"""
import ctypes
out = (ctypes.c_int * 64)()
ctypes.CDLL({library._name!r}).emulate_probe({which}, out, 0, {order}, 7)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr
