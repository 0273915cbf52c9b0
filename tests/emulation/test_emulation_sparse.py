"""The sparse kernels of CUDA, run on fibers, against the reference in three thread orders."""

from __future__ import annotations

import ctypes

import pytest
import torch

from sagittal_core.ops import reference_sparse as reference

DTYPES = [torch.float32, torch.float64]
BOUND = {torch.float32: 1e-5, torch.float64: 1e-13}
NO_ROW = -1  # as an unsigned number the largest
SEED = 7


@pytest.fixture(scope="session")
def library(emulated):
    return emulated("sparse_emulated.cpp")


def call(function, order, *arguments):
    """Call an emulated kernel; tensors as pointers, numbers as int64."""
    first, *rest = arguments
    converted = [
        ctypes.c_int64(a)
        if isinstance(a, int)
        else ctypes.c_void_p(a.data_ptr() if isinstance(a, torch.Tensor) else a)
        for a in rest
    ]
    error = function(int(first == torch.float64), *converted, order, SEED)
    assert error is None, error


def empty(rows, k, dtype):
    return torch.full((rows, k), torch.nan, dtype=dtype), torch.full((rows, k), -1)


def run_select(library, order, scores, k, bias=None, chunk=None):
    values, indices = empty(len(scores), k, scores.dtype)
    nan_row = torch.tensor([NO_ROW])
    width = scores.shape[1]
    for first in range(0, width, chunk or width):
        part = scores[:, first : first + (chunk or width)].contiguous()
        sizes = (len(part), part.shape[1], first)
        out = (values, indices, nan_row)
        call(library.emulate_select, order, scores.dtype, part, *sizes, bias, k, *out)
    return values, indices, int(nan_row)


def scores_of(kind, rows, width, dtype):
    torch.manual_seed(rows * width)
    scores = torch.randn(rows, width, dtype=dtype)
    if kind == "ties":
        return scores.mul(2).round()
    if kind == "ascending":
        return scores.sort(1).values
    if kind == "infinite":
        return torch.where(scores > 0.5, torch.inf, torch.where(scores < 0, -torch.inf, -0.0))
    return scores


SELECTIONS = [(0, 3, 2), (1, 1, 1), (3, 7, 3), (3, 301, 256), (2, 4100, 5), (2, 9001, 300)]
SELECTIONS += [(1, 5000, 1024), (1, 13000, 1024), (1, 2500, 2500), (2, 1100, 1025)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SELECTIONS, ids=str)
def test_select_follows_the_reference(library, order, dtype, shape):
    rows, width, k = shape
    for kind in ("random", "ties", "ascending", "infinite"):
        scores = scores_of(kind, rows, width, dtype)
        wanted = reference.topk_select(scores, k)
        found = run_select(library, order, scores, k)
        assert torch.equal(found[0], wanted[0]), kind
        assert torch.equal(found[1], wanted[1]), kind
        assert found[2] == NO_ROW


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 700, 5, 128), (2, 9000, 40, 4096), (2, 3000, 1000, 1024)])
def test_encode_chunk_by_chunk(library, order, dtype, shape):
    rows, width, k, chunk = shape
    for kind, down in (("random", 0), ("ties", 3), ("ascending", 0), ("random", 9)):
        scores = scores_of(kind, rows, width, dtype)
        bias = torch.randn(width, dtype=dtype).round() - down  # 9: no positive ones at all
        p = scores + bias
        wanted = reference.topk_select(torch.where(p > 0, p, 0), k)
        found = run_select(library, order, scores, k, bias, chunk)
        assert torch.equal(found[0], wanted[0]), (kind, down)
        assert torch.equal(found[1], wanted[1]), (kind, down)


def test_the_lowest_row_with_nan_is_noted(library, order):
    scores = torch.zeros(9, 5000)
    scores[[3, 6], [4999, 1]] = torch.nan
    assert run_select(library, order, scores, 2)[2] == 3
    assert run_select(library, order, scores[:, :4000].contiguous(), 2)[2] == 6
    bias = torch.zeros(5000)
    bias[-1] = torch.nan
    assert run_select(library, order, torch.zeros(2, 5000), 2, bias)[2] == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(4, 50), (3, 2100), (1, 1), (20, 6)], ids=str)
@pytest.mark.parametrize("one", [False, True])
def test_threshold(library, order, dtype, shape, one):
    rows, width = shape
    scores = scores_of("ties", rows, width, dtype)
    bias = torch.randn(width, dtype=dtype).round() + 2  # more than 1024 of 2100 are positive
    bias[0] = -torch.inf
    limit = torch.zeros(1, dtype=dtype) if one else torch.randn(width, dtype=dtype).round()
    p = (scores + bias).clamp(min=0)
    wanted = reference._positive_entries(torch.where(p > limit, p, 0))
    before = 1000  # entries of the rows before
    offsets = torch.full((rows + 1,), before)
    report, nan_row = torch.tensor([-1, -1]), torch.tensor([NO_ROW])
    given = (scores, rows, width, bias, limit, int(one), offsets)
    call(library.emulate_count, order, dtype, *given, report, nan_row)
    assert torch.equal(offsets - before, wanted[2])
    longest = int(wanted[2].diff().max())
    assert report.tolist() == [longest, before + len(wanted[0])]
    values, indices = empty(1, len(wanted[0]), dtype)
    out = (values, indices, nan_row)
    call(library.emulate_fill, order, dtype, *given, longest, *out)
    assert torch.equal(values[0], wanted[0])
    assert torch.equal(indices[0], wanted[1])
    assert int(nan_row) == NO_ROW


def test_offsets_of_more_rows_than_threads(library, order):
    scores = torch.randint(-1, 2, (300, 6)).float()
    offsets, report, nan_row = (
        torch.zeros(301).long(),
        torch.tensor([-1, -1]),
        torch.tensor([NO_ROW]),
    )
    given = (scores, 300, 6, torch.zeros(6), torch.zeros(1), 1, offsets, report, nan_row)
    call(library.emulate_count, order, torch.float32, *given)
    count = (scores > 0).sum(1)
    assert torch.equal(offsets, reference.row_offsets(count))
    assert report.tolist() == [int(count.max()), int(count.sum())]


def codes_of(rows, k, features, dtype, flat):
    """Indices, values, offsets; the first half of the entries of one feature."""
    torch.manual_seed(rows * k + features)
    offsets, shape = None, (rows, k)
    if flat:
        offsets = reference.row_offsets(torch.randint(0, 2 * k, (rows,)))
        shape = (int(offsets[-1]),)
    indices, values = torch.randint(features, shape), torch.randn(shape, dtype=dtype)
    indices.view(-1)[: indices.numel() // 2] = features - 1
    return indices, values, offsets


def sizes_of(codes, features):
    indices, _, offsets = codes
    rows = len(indices) if offsets is None else len(offsets) - 1
    return rows, indices.numel(), features


CODES = [(5, 3, 8, 7, False), (4, 150, 20, 33, True), (3, 2, 9, 1030, False), (0, 2, 5, 4, False)]
CODES += [(3, 2, 9, 516, True), (90, 4, 6, 40, False)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CODES, ids=str)
def test_decode_and_its_gradients(library, order, dtype, case):
    rows, k, features, width, flat = case
    codes = indices, values, offsets = codes_of(rows, k, features, dtype, flat)
    weight, shift = torch.randn(features, width, dtype=dtype), torch.randn(width, dtype=dtype)
    where = (indices, offsets, *sizes_of(codes, features))
    close = {"rtol": 10 * BOUND[dtype], "atol": 100 * BOUND[dtype]}
    for prefixes in ([features], [1, 3, features]):
        ends, groups = torch.tensor(prefixes), len(prefixes)
        faults = torch.zeros(2, dtype=torch.int32)
        found = torch.full((groups, rows, width), torch.nan, dtype=dtype)
        given = (values, weight, shift, ends, groups, width, faults, found)
        call(library.emulate_decode, order, dtype, *where, *given)
        wanted = reference.sparse_decode(*codes, weight, shift, prefixes)
        torch.testing.assert_close(found, wanted, **close)
        grad = torch.randn_like(wanted)
        for_values, for_weight = torch.full_like(values, torch.nan), torch.full_like(weight, 9)
        given = (values, None, grad, weight, None, ends, groups, width, faults)
        out = (for_values, for_weight, None)
        call(library.emulate_backward, order, dtype, *where, *given, *out)
        wanted = reference.sparse_decode_backward(grad, *codes, weight, prefixes)
        torch.testing.assert_close((for_values, for_weight), wanted, **close)
        assert not faults.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CODES, ids=str)
def test_gradients_of_the_encoder(library, order, dtype, case):
    rows, k, features, width, flat = case
    codes = indices, values, offsets = codes_of(rows, k, features, dtype, flat)
    x, grad = torch.randn(rows, width, dtype=dtype), torch.randn_like(values)
    where = (indices, offsets, *sizes_of(codes, features))
    for shift in (None, torch.randn(width, dtype=dtype)):
        faults = torch.zeros(2, dtype=torch.int32)
        for_weight = torch.full((features, width), torch.nan, dtype=dtype)
        for_bias = torch.full((features,), torch.nan, dtype=dtype)
        given = (values, grad, x, None, shift, None, 1, width, faults)
        out = (None, for_weight, for_bias)
        call(library.emulate_backward, order, dtype, *where, *given, *out)
        wanted = reference.sparse_encode_backward(grad, *codes, x, shift, features)
        close = {"rtol": 10 * BOUND[dtype], "atol": 100 * BOUND[dtype]}
        torch.testing.assert_close((for_weight, for_bias), wanted, **close)


def test_sums_have_the_same_bits_in_every_order(library):
    codes = indices, values, offsets = codes_of(200, 3, 7, torch.float32, True)
    weight, grad = torch.randn(7, 70), torch.randn(1, 200, 70)
    found = []
    for order in range(3):
        for_values, for_weight = torch.empty_like(values), torch.empty_like(weight)
        faults = torch.zeros(2, dtype=torch.int32)
        given = (values, None, grad, weight, None, torch.tensor([7]), 1, 70, faults)
        where = (indices, offsets, *sizes_of(codes, 7))
        out = (for_values, for_weight, None)
        call(library.emulate_backward, order, torch.float32, *where, *given, *out)
        found.append((for_values, for_weight))
    assert all(
        torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True)
    )


def test_wrong_codes_are_noted_and_read_nothing(library, order):
    weight, bias, values = torch.randn(5, 3), torch.zeros(3), torch.ones(4)
    cases = [
        ([0, 5, 1, 1], [0, 4], [1, 0]),
        ([0, -1, 1, 10**12], [0, 4], [1, 0]),
        ([0, 1, 1, 1], [0, 3, 2, 4], [0, 1]),
        ([0, 1, 1, 1], [1, 4], [0, 1]),
        ([0, 1, 1, 1], [0, 10**12, 4], [0, 1]),
        ([0, 1, 1, 1], [0, 3], [0, 1]),
    ]
    for entries, bounds, wanted in cases:
        indices, offsets = torch.tensor(entries), torch.tensor(bounds)
        rows = len(bounds) - 1
        where, ends = (indices, offsets, rows, 4, 5), torch.tensor([5])
        faults, out = torch.zeros(2, dtype=torch.int32), torch.zeros(1, rows, 3)
        given = (values, weight, bias, ends, 1, 3, faults, out)
        call(library.emulate_decode, order, torch.float32, *where, *given)
        assert faults.tolist() == wanted, (entries, bounds)
        faults.zero_()
        given = (values, None, torch.ones(1, rows, 3), weight, None, ends, 1, 3, faults)
        out = (torch.empty(4), torch.empty(5, 3), None)
        call(library.emulate_backward, order, torch.float32, *where, *given, *out)
        assert faults.tolist() == wanted, (entries, bounds)
