import os
import resource
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_core.ops import SparseCodes, reference_sparse, sparse_decode, topk_encode, topk_select

OPS = torch.ops.sagittal
DTYPES = [torch.float32, torch.float64]
BOUND = {torch.float32: 1e-5, torch.float64: 1e-13}


def problem(n=13, d=19, f=37, dtype=torch.float64):
    """x, W_e, b_e, W_d, b_d."""
    shapes = ((n, d), (f, d), (f,), (f, d), (d,))
    return tuple(torch.randn(shape, dtype=dtype) for shape in shapes)


def whole(n, d, f, dtype=torch.float64):
    """A problem in small integers: sums are exact in any order, and ties are everywhere."""
    return tuple(t.mul(1.5).round() for t in problem(n, d, f, dtype))


def dense_codes(codes, rows, features):
    dense = codes.values.new_zeros(rows, features)
    where = reference_sparse.entry_rows(codes.indices, codes.offsets)
    return dense.index_put((where, codes.indices.flatten()), codes.values.flatten())


def same(found, wanted):
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


# --- encode ---------------------------------------------------------------------------------------


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


# --- select ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(n=st.integers(0, 5), f=st.integers(1, 900), kind=st.integers(0, 4), data=st.data())
def test_select_follows_the_reference(dtype, n, f, kind, data):
    scores = torch.randn(n, f, dtype=dtype)
    if kind == 1:
        scores = scores.mul(2).round()
    elif kind == 2:
        scores = scores.sort(1).values
    elif kind == 3:
        scores = torch.where(scores > 0, torch.inf, -torch.inf)
    elif kind == 4:
        scores = torch.where(scores > 0, 0.0, -0.0).to(dtype)
    k = data.draw(st.integers(1, f))
    assert same(OPS.topk_select(scores, k), reference_sparse.topk_select(scores, k))


@pytest.mark.parametrize("kind", ["normal", "ties", "rising", "infinite", "equal"])
@pytest.mark.parametrize("f", [1024, 1536 + 17, 4096])
def test_select_of_few_from_many_leaves_out_whole_groups(kind, f):
    scores = {
        "normal": torch.randn(6, f),
        "ties": torch.randint(-2, 3, (6, f)).float(),
        "rising": torch.randn(6, f).sort(1).values,
        "infinite": torch.where(torch.rand(6, f) > 0.99, torch.inf, torch.randn(6, f)),
        "equal": torch.full((6, f), -torch.inf),
    }[kind]
    for k in (1, 2, f // 64):
        assert same(OPS.topk_select(scores, k), reference_sparse.topk_select(scores, k))


def test_select_raises_on_nan_and_has_a_gradient():
    scores = torch.randn(4, 700, dtype=torch.float64)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: topk_select(s, 3)[1], scores[:, :20])
    bad = scores.detach().clone()
    bad[2, 699] = torch.nan
    with pytest.raises(RuntimeError, match="NaN score in row 2"):
        topk_select(bad, 3)
    with pytest.raises(ValueError, match="1 <= k <= F"):
        topk_select(bad, 701)


# --- decode ---------------------------------------------------------------------------------------


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


# --- gradients ------------------------------------------------------------------------------------


def dense_form(x, W_e, b_e, W_d, b_d, kept):
    """The same model with an (N, F) matrix of activations; ``kept``: (N, F) bool."""
    p = torch.relu((x - b_d) @ W_e.T + b_e)
    return b_d + torch.where(kept, p, 0) @ W_d


@pytest.mark.parametrize("mode", ["topk", "batchtopk", "threshold"])
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_equal_those_of_the_dense_form(mode, tied):
    parameters = list(problem(30, 12, 50))
    parameters[2] -= 3  # few positives
    if tied:
        parameters[3] = parameters[1]
    limit = {"threshold": 0.7} if mode == "threshold" else {"k": 9}
    leaves = [p.clone().requires_grad_() for p in parameters]
    twins = [p.clone().requires_grad_() for p in parameters]
    if tied:
        leaves[3], twins[3] = leaves[1], twins[1]
    x, W_e, b_e, W_d, b_d = leaves
    codes = topk_encode(x, W_e, b_e, mode=mode, b_d=b_d, **limit)
    found = sparse_decode(codes.indices, codes.values, W_d, b_d, offsets=codes.offsets)
    kept = dense_codes(codes, 30, 50) > 0
    wanted = dense_form(*twins, kept)
    torch.testing.assert_close(found, wanted)
    target = torch.randn_like(found)
    (found - target).square().sum().backward()
    (wanted - target).square().sum().backward()
    assert 0 < int(kept.sum()) < kept.numel() / 2
    for a, b in zip(leaves, twins, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_prefixes_equal_a_loop_over_them():
    x, W_e, b_e, W_d, b_d = (p.requires_grad_() for p in problem(25, 14, 64))
    prefixes = [8, 16, 40, 64]
    codes = topk_encode(x, W_e, b_e, 10, b_d=b_d)
    found = sparse_decode(*codes[:2], W_d, b_d, prefixes=prefixes)
    looped = torch.stack(
        [
            sparse_decode(codes.indices, codes.values * (codes.indices < end), W_d, b_d)
            for end in prefixes
        ]
    )
    torch.testing.assert_close(found, looped)
    target, leaves = torch.randn_like(found), (x, W_e, b_e, W_d, b_d)
    gradients = [
        torch.autograd.grad((out - target).square().sum(), leaves, retain_graph=True)
        for out in (found, looped)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_gradcheck():
    x, W_e, b_e, W_d, b_d = (p.requires_grad_() for p in problem(4, 5, 9))

    def autoencoder(x, W_e, b_e, W_d, b_d):
        codes = topk_encode(x, W_e, b_e, 3, b_d=b_d)
        return sparse_decode(*codes[:2], W_d, b_d, prefixes=[4, 9])

    assert torch.autograd.gradcheck(autoencoder, (x, W_e, b_e, W_d, b_d))
    for limit in ({"mode": "batchtopk", "k": 2}, {"mode": "threshold", "threshold": 0.3}):
        encode = lambda *p, limit=limit: topk_encode(*p, **limit).values  # noqa: E731
        assert torch.autograd.gradcheck(encode, (x, W_e, b_e))
    values = torch.randn(7, dtype=torch.float64, requires_grad=True)
    indices, offsets = torch.randint(9, (7,)), torch.tensor([0, 3, 3, 7])
    decode = lambda v, w, b: sparse_decode(indices, v, w, b, offsets=offsets)  # noqa: E731
    assert torch.autograd.gradcheck(decode, (values, W_d, b_d))


def test_opcheck():
    x, W_e, b_e, W_d, b_d = (p.requires_grad_() for p in problem(6, 5, 9))
    encode = (x, W_e, b_e, b_d)
    torch.library.opcheck(OPS.topk_encode, (*encode, 3))
    torch.library.opcheck(OPS.batchtopk_encode, (*encode, 3))
    torch.library.opcheck(OPS.threshold_encode, (*encode, torch.zeros(9, dtype=torch.float64)))
    torch.library.opcheck(OPS.topk_select, (x, 3))
    indices, values = torch.randint(9, (6, 3)), torch.rand(6, 3, dtype=torch.float64)
    values.requires_grad_()
    offsets = torch.arange(0, 19, 3)
    for codes in (
        (indices, values, None),
        (indices.flatten(), values.detach().flatten().requires_grad_(), offsets),
    ):
        torch.library.opcheck(OPS.sparse_decode, (*codes, W_d, b_d, [4, 9]))
        fixed = (codes[0], codes[1].detach(), codes[2])
        grad = torch.randn(2, 6, 5, dtype=torch.float64)
        torch.library.opcheck(OPS.sparse_decode_backward, (grad, *fixed, W_d.detach(), [4, 9]))
        torch.library.opcheck(
            OPS.sparse_encode_backward, (fixed[1], *fixed, x.detach(), b_d.detach(), 9)
        )


# --- determinism ----------------------------------------------------------------------------------


def step(parameters, prefixes):
    """Everything a training step computes."""
    leaves = [p.clone().requires_grad_() for p in parameters]
    x, W_e, b_e, W_d, b_d = leaves
    codes = topk_encode(x, W_e, b_e, 8, b_d=b_d)
    csr = topk_encode(x, W_e, b_e, 4, "batchtopk", b_d=b_d)
    out = sparse_decode(*codes[:2], W_d, b_d, prefixes=prefixes)
    flat = sparse_decode(csr.indices, csr.values, W_d, b_d, offsets=csr.offsets)
    (out.square().sum() + flat.square().sum()).backward()
    return (*codes[:2], *csr, out.detach(), flat.detach(), *(p.grad for p in leaves))


def test_same_bits_on_one_and_two_threads_and_in_ten_runs(threads):
    parameters = problem(300, 48, 600, torch.float32)
    parameters[2][5] = 100  # in every row
    threads(1)
    first = step(parameters, [100, 600])
    for run in range(10):
        threads(1 + run % 2)
        assert same(step(parameters, [100, 600]), first)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_instruction_sets(isa, native):
    order = ("portable", "avx2", "avx512")
    if native.mode == "reference":
        pytest.skip(f"no compiled kernels: {native.reason}")
    if order.index(isa) > order.index(native.isa):
        pytest.skip(f"this machine has no {isa}")
    code = """
import os
import torch
from sagittal_core.ops import backend_info, sparse_decode, topk_encode, topk_select
from sagittal_core.ops import reference_sparse as reference
assert backend_info().isa == os.environ["SAGITTAL_ISA"]
for dtype in (torch.float32, torch.float64):
    x, W, b = (torch.randn(s).mul(2).round().to(dtype) for s in ((130, 70), (600, 70), (600,)))
    codes = topk_encode(x, W, b, 20)
    wanted = reference.topk_encode(x, W, b, None, 20)
    assert torch.equal(codes.values, wanted[0]) and torch.equal(codes.indices, wanted[1])
    out = sparse_decode(codes.indices, codes.values, W, b[:70])
    assert torch.equal(out, reference.sparse_decode(*codes, W, b[:70], [600])[0])
    args = (x[None].contiguous(), *codes, W, [600])
    found = torch.ops.sagittal.sparse_decode_backward(*args)
    for a, b in zip(found, reference.sparse_decode_backward(*args)):
        assert torch.equal(a, b)
    assert torch.equal(topk_select(x, 9)[0], reference.topk_select(x, 9)[1])
"""
    environment = {**os.environ, "SAGITTAL_ISA": isa}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def test_a_compiled_graph_gives_the_same(native):
    x, W_e, b_e, W_d, b_d = (p.requires_grad_() for p in problem(6, 5, 9))

    def loss(x):
        codes = topk_encode(x, W_e, b_e, 3, b_d=b_d)
        return (sparse_decode(*codes[:2], W_d, b_d) - x).square().sum()

    wanted = torch.autograd.grad(loss(x), (x, W_e, b_d))
    found = torch.autograd.grad(
        torch.compile(loss, backend="aot_eager", fullgraph=True)(x), (x, W_e, b_d)
    )
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


# --- messages -------------------------------------------------------------------------------------


def test_bad_arguments_say_what_is_wrong():
    x, W_e, b_e, W_d, b_d = problem(3, 4, 6)
    with pytest.raises(ValueError, match=r"k must be between 1 and F = 6, got 7"):
        topk_encode(x, W_e, b_e, 7)
    with pytest.raises(ValueError, match=r"k must be between 1 and F = 6, got None"):
        topk_encode(x, W_e, b_e)
    with pytest.raises(ValueError, match="mode must be one of"):
        topk_encode(x, W_e, b_e, 2, "relu")
    with pytest.raises(ValueError, match="threshold belongs to"):
        topk_encode(x, W_e, b_e, 2, threshold=0.1)
    with pytest.raises(ValueError, match="threshold must not be NaN"):
        topk_encode(x, W_e, b_e, mode="threshold", threshold=torch.nan)
    with pytest.raises(ValueError, match=r"threshold must be a scalar or \(6,\), got 5"):
        topk_encode(x, W_e, b_e, mode="threshold", threshold=b_e[:5])
    with pytest.raises(ValueError, match=r"W_e must be \(F, 4\)"):
        topk_encode(x, W_e[:, 1:], b_e, 2)
    with pytest.raises(ValueError, match=r"b_e must be \(6,\), got \(5,\)"):
        topk_encode(x, W_e, b_e[1:], 2)
    with pytest.raises(TypeError, match=r"b_d must be torch.float64 as x"):
        topk_encode(x, W_e, b_e, 2, b_d=b_d.float())
    with pytest.raises(TypeError, match="x must be float32 or float64"):
        topk_encode(x.half(), W_e.half(), b_e.half(), 2)
    codes = SparseCodes(torch.zeros(3, 2, dtype=torch.int64), torch.ones(3, 2).double())
    for prefixes in ([], [3], [3, 3, 6], [0, 6], [-1, 6], [6, 7]):
        with pytest.raises(ValueError, match="prefixes must rise to F = 6"):
            sparse_decode(*codes[:2], W_d, b_d, prefixes=prefixes)
    with pytest.raises(TypeError, match="must be int64"):
        sparse_decode(codes.indices.int(), codes.values, W_d, b_d)
    with pytest.raises(ValueError, match=r"indices and values must both be \(N, k\)"):
        sparse_decode(codes.indices, codes.values[:2], W_d, b_d)
    with pytest.raises(ValueError, match=r"b_d must be \(4,\)"):
        sparse_decode(*codes[:2], W_d, b_d[1:])
