"""The sparse operators on a CUDA device against the CPU; small integers make every sum exact."""

import pytest
import torch

from sagittal_core.ops import SparseCodes, sparse_decode, topk_encode, topk_select

pytestmark = pytest.mark.cuda
DTYPES = [torch.float32, torch.float64]
# Rows, inputs, features, k: one of each; odd sizes; more rows and features than one chunk; more
# entries than one pass finds; all features.
SHAPES = [(1, 1, 1, 1), (130, 37, 301, 9), (2500, 8, 9000, 32), (40, 5, 3001, 1500), (7, 3, 64, 64)]


def whole(n, d, f, dtype):
    """x, W_e, b_e, W_d, b_d in small integers."""
    shapes = ((n, d), (f, d), (f,), (f, d), (d,))
    return [torch.randn(shape, dtype=dtype).mul(1.5).round() for shape in shapes]


def cuda(tensors):
    return [None if t is None else t.detach().cuda() for t in tensors]


def same(found, wanted):
    return all(
        a is b if b is None else torch.equal(a.cpu(), b) for a, b in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_encoding_equals_the_cpu(dtype, shape):
    n, d, f, k = shape
    x, weight, bias, _, shift = whole(n, d, f, dtype)
    on_gpu = cuda((x, weight, bias))
    for mode in ("topk", "batchtopk", "threshold"):
        limit = {"threshold": 2.0} if mode == "threshold" else {"k": k}
        wanted = topk_encode(x, weight, bias, mode=mode, b_d=shift, **limit)
        assert same(topk_encode(*on_gpu, mode=mode, b_d=shift.cuda(), **limit), wanted)
    each = torch.randn(f, dtype=dtype).round()
    wanted = topk_encode(x, weight, bias, mode="threshold", threshold=each)
    assert same(topk_encode(*on_gpu, mode="threshold", threshold=each.cuda()), wanted)
    scores = torch.randn(n, f, dtype=dtype).mul(2).round()
    assert same(topk_select(scores.cuda(), k), topk_select(scores, k))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (0, 5, 9, 2), (600, 1500, 40, 3)], ids=str)
@pytest.mark.parametrize("flat", [False, True])
def test_decoding_and_gradients_equal_the_cpu(dtype, shape, flat):
    n, d, f, k = shape
    x, weight, bias, decoder, shift = whole(n, d, f, dtype)
    ends = sorted({max(1, f // 3), f})
    found = []
    for move in (lambda t: t, lambda t: t.cuda()):
        leaves = [move(t).requires_grad_() for t in (x, weight, bias, decoder, shift)]
        codes = topk_encode(*leaves[:3], k, "batchtopk" if flat else "topk", b_d=leaves[4])
        out = sparse_decode(
            codes.indices, codes.values, *leaves[3:], offsets=codes.offsets, prefixes=ends
        )
        (out * torch.arange(len(ends)).to(out).view(-1, 1, 1)).sum().backward()
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
    assert same(found[1], found[0])


def test_one_feature_in_every_row():
    indices, values = torch.full((5000, 1), 7), torch.randint(1, 4, (5000, 1)).float()
    weight, bias = torch.randint(-2, 3, (64, 33)).float(), torch.zeros(33)
    codes = SparseCodes(indices, values)
    gradients = []
    for move in (lambda t: t, lambda t: t.cuda()):
        decoder = move(weight).requires_grad_()
        given = move(codes.values).requires_grad_()
        sparse_decode(move(codes.indices), given, decoder, move(bias)).sum().backward()
        gradients.append((decoder.grad, given.grad))
    assert same(gradients[1], gradients[0])


def step(parameters):
    leaves = [p.cuda().requires_grad_() for p in parameters]
    x, W_e, b_e, W_d, b_d = leaves
    codes = topk_encode(x, W_e, b_e, 8, b_d=b_d)
    out = sparse_decode(*codes[:2], W_d, b_d, prefixes=[100, 600])
    out.square().sum().backward()
    return [*codes[:2], out.detach(), *(leaf.grad for leaf in leaves)]


def test_the_same_bits_twice_and_under_autocast():
    shapes = ((300, 48), (600, 48), (600,), (600, 48), (48,))
    parameters = [torch.randn(shape) for shape in shapes]
    parameters[2][5] = 100  # in every row
    first = step(parameters)
    assert all(torch.equal(a, b) for a, b in zip(step(parameters), first, strict=True))
    with torch.autocast("cuda"):
        assert torch.equal(step(parameters)[0], first[0])


def test_errors_are_those_of_the_cpu():
    x, weight, bias, decoder, shift = cuda(whole(50, 3, 10, torch.float32))
    x[20, 1] = torch.nan
    for mode in ("topk", "batchtopk", "threshold"):
        limit = {"threshold": 0.5} if mode == "threshold" else {"k": 2}
        with pytest.raises(RuntimeError, match="NaN pre-activation in row 20"):
            topk_encode(x, weight, bias, mode=mode, **limit)
    with pytest.raises(RuntimeError, match="NaN score in row 20"):
        topk_select(x, 1)
    indices, values = torch.full((2, 2), 10).cuda(), torch.ones(2, 2).cuda()
    with pytest.raises(RuntimeError, match=r"indices must be in 0\.\.9"):
        sparse_decode(indices, values, decoder, shift)
    flat = (indices.flatten() - 1, values.flatten(), decoder, shift)
    for offsets in ([0, 3, 2, 4], [1, 4], [0, 3]):
        with pytest.raises(RuntimeError, match="offsets must rise from 0 to nnz = 4"):
            sparse_decode(*flat, offsets=torch.tensor(offsets).cuda())
    with pytest.raises(RuntimeError, match="weight must be on the device"):
        topk_encode(x, weight.cpu(), bias, 2)
