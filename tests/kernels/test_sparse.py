"""Encoder and decoder together: gradients, determinism, messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sagittal_core.ops import SparseCodes, reference_sparse, sparse_decode, topk_encode

sys.path.insert(0, str(Path(__file__).parent))
from sparse_problems import problem, same

OPS = torch.ops.sagittal


def dense_codes(codes, rows, features):
    dense = codes.values.new_zeros(rows, features)
    where = reference_sparse.entry_rows(codes.indices, codes.offsets)
    return dense.index_put((where, codes.indices.flatten()), codes.values.flatten())


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
