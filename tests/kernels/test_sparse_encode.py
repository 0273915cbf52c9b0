import resource
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_core.ops import reference_sparse, sparse_decode, topk_encode

sys.path.insert(0, str(Path(__file__).parent))
from sparse_problems import BOUND, DTYPES, problem, same, whole

OPS = torch.ops.sagittal


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(
    n=st.integers(0, 220),
    d=st.integers(1, 70),
    f=st.integers(1, 300),
    data=st.data(),
    shifted=st.booleans(),
)
def test_encode_follows_the_reference_to_the_last_tie(dtype, n, d, f, data, shifted):
    x, weight, bias, _, shift = whole(n, d, f, dtype)
    k = data.draw(st.integers(1, f))
    arguments = (x, weight, bias, shift if shifted else None, k)
    assert same(OPS.topk_encode(*arguments), reference_sparse.topk_encode(*arguments))
    found, wanted = OPS.batchtopk_encode(*arguments), reference_sparse.batchtopk_encode(*arguments)
    assert same(found, wanted)
    limit = torch.tensor([2.0], dtype=dtype) if k % 2 else torch.randn(f, dtype=dtype).round()
    found = OPS.threshold_encode(*arguments[:4], limit)
    assert same(found, reference_sparse.threshold_encode(*arguments[:4], limit))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(200, 700, 2500), (97, 64, 4100), (1, 1, 1)])
def test_encode_over_several_tiles_and_chunks(dtype, shape):
    x, weight, bias, _, _ = problem(*shape, dtype)
    k = min(32, shape[2])
    indices, values, offsets = topk_encode(x, weight, bias, k)
    assert offsets is None
    p = reference_sparse.activations(x.double(), weight.double(), bias.double(), None)
    # Rounding may swap neighbours, so values are compared by rank and against their own index.
    bound = BOUND[dtype] * float(p.max())
    torch.testing.assert_close(values.double(), p.topk(k).values, rtol=0, atol=bound)
    torch.testing.assert_close(p.gather(1, indices), values.double(), rtol=0, atol=bound)
    assert bool((values.diff(dim=1) <= 0).all())
    assert all(len(set(row)) == k for row in indices.tolist())


def test_rows_with_too_few_positives_go_on_with_zeros_at_the_lowest_indices():
    x, weight = torch.ones(2, 1), torch.tensor([[-1.0], [2.0], [-3.0], [0.0], [5.0], [-1.0]])
    indices, values, _ = topk_encode(x, weight, torch.zeros(6), 4)
    assert indices.tolist() == [[4, 1, 0, 2]] * 2
    assert values.tolist() == [[5, 2, 0, 0]] * 2
    codes = topk_encode(-x, weight * 0, torch.zeros(6), 3)
    assert codes.indices.tolist() == [[0, 1, 2]] * 2
    csr = topk_encode(x, weight, torch.zeros(6), 4).to_csr()
    assert csr.offsets.tolist() == [0, 2, 4]
    assert csr.indices.tolist() == [4, 1, 4, 1]
    assert csr.to_csr() is csr


def test_no_rows():
    x, weight, bias, decoder, shift = problem(0)
    assert topk_encode(x, weight, bias, 3).values.shape == (0, 3)
    for codes in (
        topk_encode(x, weight, bias, 3, "batchtopk"),
        topk_encode(x, weight, bias, mode="threshold", threshold=0.0),
    ):
        assert codes.offsets.tolist() == [0]
        out = sparse_decode(codes.indices, codes.values, decoder, shift, offsets=codes.offsets)
        assert out.shape == (0, 19)
    decoder.requires_grad_()
    out = sparse_decode(*topk_encode(x, weight, bias, 3)[:2], decoder, shift)
    out.sum().backward()
    assert not decoder.grad.any()


def test_views_of_any_stride():
    x, weight, bias, decoder, shift = (t.float() for t in problem(20, 8, 30))
    wanted = topk_encode(x, weight, bias, 5, b_d=shift)
    wide = torch.stack([bias, bias], 1)[:, 0]
    found = topk_encode(x.T.contiguous().T, weight.T.contiguous().T, wide, 5, b_d=shift)
    assert same(found[:2], wanted[:2])
    out = sparse_decode(
        wanted.indices.T.contiguous().T, wanted.values.T.contiguous().T, decoder[:, ::2], shift[::2]
    )
    assert torch.equal(out, sparse_decode(*wanted[:2], decoder, shift)[:, ::2])


@pytest.mark.parametrize("mode", ["topk", "batchtopk", "threshold"])
def test_nan_is_an_error_that_names_the_row(mode):
    x, weight, bias, _, _ = problem(150, 3, 10)
    x[120, 1] = torch.nan
    limit = {"threshold": 0.5} if mode == "threshold" else {"k": 2}
    with pytest.raises(RuntimeError, match="NaN pre-activation in row 120"):
        topk_encode(x, weight, bias, mode=mode, **limit)


def test_a_row_that_takes_most_of_the_batch():
    x, weight, bias, _, _ = problem(40, 5, 200)
    x[7] *= 100
    codes = topk_encode(x, weight, bias, 2, "batchtopk")
    wanted = reference_sparse.batchtopk_encode(x, weight, bias, None, 2)
    assert int(codes.offsets.diff()[7]) > 4 * 2  # more than the first pass asked for
    assert torch.equal(codes.indices, wanted[1])
    assert torch.equal(codes.offsets, wanted[2])
    assert len(codes.values) == 80


def test_index_arithmetic_beyond_32_bits_without_that_much_memory(native):
    if native.mode == "reference":
        pytest.skip("the reference stores all N F activations")
    n, f = 40_000, 65_536
    assert n * f > 2**31
    weight = torch.arange(f, dtype=torch.float32)[:, None] % 1000
    weight[-1] = 5000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    indices, values, _ = topk_encode(torch.ones(n, 1), weight, torch.zeros(f), 2)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert indices[[0, -1]].tolist() == [[f - 1, 999]] * 2
    assert torch.equal(values, torch.tensor([5000.0, 999.0]).expand(n, 2))
    assert grown < 200_000  # kB; the activations would take ten million
