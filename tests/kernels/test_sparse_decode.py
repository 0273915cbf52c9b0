import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_core.ops import reference_sparse, sparse_decode, topk_encode

sys.path.insert(0, str(Path(__file__).parent))
from sparse_problems import BOUND, DTYPES, problem

OPS = torch.ops.sagittal


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40)
@given(
    n=st.integers(0, 60),
    k=st.integers(1, 9),
    d=st.integers(1, 140),
    f=st.integers(1, 80),
    flat=st.booleans(),
    data=st.data(),
)
def test_decode_and_its_gradients_follow_the_reference(dtype, n, k, d, f, flat, data):
    cuts = data.draw(st.sets(st.integers(1, f), max_size=3))
    prefixes = sorted(cuts | {f})
    weight, bias = torch.randn(f, d, dtype=dtype), torch.randn(d, dtype=dtype)
    indices, values = torch.randint(f, (n, k)), torch.randn(n, k, dtype=dtype)
    offsets = None
    if flat:
        count = torch.randint(0, 2 * k, (n,))
        offsets = reference_sparse.row_offsets(count)
        indices = torch.randint(f, (int(offsets[-1]),))
        values = torch.randn(int(offsets[-1]), dtype=dtype)
    codes = (indices, values, offsets)
    close = {"rtol": BOUND[dtype], "atol": 20 * BOUND[dtype]}
    found = OPS.sparse_decode(*codes, weight, bias, prefixes)
    wanted = reference_sparse.sparse_decode(*codes, weight, bias, prefixes)
    torch.testing.assert_close(found, wanted, **close)
    grad = torch.randn_like(wanted)
    torch.testing.assert_close(
        OPS.sparse_decode_backward(grad, *codes, weight, prefixes),
        reference_sparse.sparse_decode_backward(grad, *codes, weight, prefixes),
        **close,
    )
    for shift in (None, bias):
        arguments = (torch.randn_like(values), *codes, grad[0], shift, f)
        torch.testing.assert_close(
            OPS.sparse_encode_backward(*arguments),
            reference_sparse.sparse_encode_backward(*arguments),
            **close,
        )


def test_one_feature_in_every_row_and_features_in_none():
    n, d, f = 5000, 33, 64
    weight, bias = torch.randn(f, d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    indices, values = torch.full((n, 1), 7), torch.rand(n, 1, dtype=torch.float64)
    grad = torch.randn(1, n, d, dtype=torch.float64)
    for_values, for_weight = OPS.sparse_decode_backward(grad, indices, values, None, weight, [f])
    torch.testing.assert_close(for_weight[7], (values * grad[0]).sum(0))
    torch.testing.assert_close(for_values[:, 0], grad[0] @ weight[7])
    assert not for_weight[:7].any()
    assert not for_weight[8:].any()
    for_weight, for_bias = OPS.sparse_encode_backward(
        values, indices, values, None, grad[0], bias, f
    )
    torch.testing.assert_close(for_weight[7], (values * grad[0]).sum(0))
    assert int(for_bias.count_nonzero()) == 1


def test_csr_and_padded_codes_decode_alike():
    x, weight, bias, decoder, shift = problem(50, 40, 60)
    codes = topk_encode(x, weight, bias - 9, 8)
    assert bool((codes.values == 0).any())
    csr = codes.to_csr()
    found = sparse_decode(csr.indices, csr.values, decoder, shift, offsets=csr.offsets)
    torch.testing.assert_close(found, sparse_decode(*codes[:2], decoder, shift))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_stay_in_their_row_and_feature(bad):
    weight, bias = torch.randn(6, 40), torch.randn(40)
    indices, values = torch.randint(5, (30, 3)), torch.rand(30, 3)
    indices[7], values[7, 1] = torch.tensor([0, 5, 2]), bad
    found = sparse_decode(indices, values, weight, bias)
    wanted = reference_sparse.sparse_decode(indices, values, None, weight, bias, [6])[0]
    torch.testing.assert_close(found, wanted, equal_nan=True)
    assert (~found.isfinite().all(1)).nonzero().flatten().tolist() == [7]
    grad = torch.randn(1, 30, 40)
    _, for_weight = OPS.sparse_decode_backward(grad, indices, values, None, weight, [6])
    assert (~for_weight.isfinite().all(1)).nonzero().flatten().tolist() == [5]


def test_more_products_than_int32_counts(native):
    if native.mode == "reference":
        pytest.skip("the reference stores all N k D products")
    n, k, d = 33_000, 64, 1024
    assert n * k * d > 2**31  # the (N, k, D) temporary of a gather would take 8 GB
    weight = torch.arange(4 * d, dtype=torch.float32).view(4, d) % 7
    indices, values = torch.arange(k).remainder(4).expand(n, k), torch.ones(n, k)
    found = sparse_decode(indices, values, weight, torch.zeros(d))
    assert torch.equal(found[[0, -1]], (weight.sum(0) * (k // 4)).expand(2, d))


def test_wrong_codes_are_errors():
    weight, bias = torch.randn(5, 3), torch.randn(3)
    good, values = torch.zeros(2, 2, dtype=torch.int64), torch.ones(2, 2)
    for wrong in (-1, 5):
        with pytest.raises(RuntimeError, match=r"indices must be in 0\.\.4"):
            sparse_decode(good + wrong, values, weight, bias)
        with pytest.raises(RuntimeError, match=r"indices must be in 0\.\.4"):
            OPS.sparse_decode_backward(torch.ones(1, 2, 3), good + wrong, values, None, weight, [5])
    for offsets in ([0, 3, 2, 4], [1, 4], [0, 3], [0, 5, 4]):
        with pytest.raises(RuntimeError, match="offsets must rise from 0 to nnz = 4"):
            sparse_decode(
                good.flatten(), values.flatten(), weight, bias, offsets=torch.tensor(offsets)
            )
