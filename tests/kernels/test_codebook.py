import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_core.ops import codebook_lookup, codebook_sums
from sagittal_core.ops import reference_codebook as reference

# What one score may differ by, relative to |z| |e| + |e|^2; half types are exact in float32, so
# only the accumulation counts.
TOLERANCE = {
    torch.float64: 1e-15,
    torch.float32: 1e-6,
    torch.float16: 1e-6,
    torch.bfloat16: 1e-6,
}
SHAPES = [
    (0, 3, 5),
    (1, 1, 1),
    (7, 1, 4),
    (5, 6, 1),
    (3, 2, 0),
    (97, 33, 7),
    (200, 65, 19),
    (13, 16, 64),
    (450, 130, 33),
]


def problem(rows, size, width, dtype=torch.float64):
    return torch.randn(rows, width).to(dtype), torch.randn(size, width).to(dtype)


def dense(z, codebook, bias=None):
    """All scores in float64."""
    z, codebook = z.double(), codebook.double()
    scores = z @ codebook.T - 0.5 * codebook.square().sum(1)
    return scores if bias is None else scores + bias.double()


def check(z, codebook, bias=None, k=1):
    """Scores are right, belong to their indices, and none of the others is better."""
    indices, scores = codebook_lookup(z, codebook, bias, k)
    wide = torch.float64 in (z.dtype, codebook.dtype)
    assert scores.dtype == (torch.float64 if wide else torch.float32)
    assert indices.dtype == torch.int64
    if k == 1:
        assert indices.shape == scores.shape == (len(z),)
        indices, scores = indices[:, None], scores[:, None]
    assert indices.shape == scores.shape == (len(z), k)
    if not len(z):
        return
    wanted = dense(z, codebook, bias)
    norm = codebook.double().norm(dim=1).max()
    scale = z.double().norm(dim=1, keepdim=True) * norm + norm**2 + 1
    dtype = z.dtype if codebook.dtype == z.dtype else torch.float32
    bound = TOLERANCE[dtype] * scale * max(1.0, z.shape[1] ** 0.5)
    assert ((wanted.gather(1, indices) - scores).abs() <= bound).all()
    assert ((wanted.topk(k, 1).values - scores).abs() <= bound).all()
    assert all(len(row.unique()) == k for row in indices)
    assert (scores[:, :-1] >= scores[:, 1:]).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_finds_the_best(shape, dtype):
    z, codebook = problem(*shape, dtype)
    for k in sorted({1, min(3, shape[1]), shape[1]}):
        check(z, codebook, None, k)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16),
        (torch.float32, torch.float64),
    ],
)
def test_mixed_dtypes(first, second):
    z, codebook = torch.randn(30, 9).to(first), torch.randn(20, 9).to(second)
    check(z, codebook)
    check(z, codebook, k=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 5])
def test_bias(dtype, k):
    z, codebook = problem(103, 37, 11, dtype)
    check(z, codebook, torch.randn(37, dtype=dtype), k)
    check(z, codebook, torch.randn(103, 37, dtype=dtype), k)


@pytest.mark.parametrize("k", [1, 3])
def test_minus_infinity_rules_a_code_out(k):
    z, codebook = problem(50, 20, 6)
    bias = torch.zeros(20, dtype=torch.float64)
    bias[::2] = -torch.inf
    indices, _ = codebook_lookup(z, codebook, bias, k)
    assert (indices % 2 == 1).all()
    each = torch.zeros(50, 20, dtype=torch.float64)
    each.scatter_(1, codebook_lookup(z, codebook)[0][:, None], -torch.inf)
    assert torch.equal(
        codebook_lookup(z, codebook, each)[0], codebook_lookup(z, codebook, k=2)[0][:, 1]
    )
    indices, scores = codebook_lookup(z, codebook, torch.full((20,), -torch.inf).double(), k)
    assert (scores == -torch.inf).all()
    assert (indices.reshape(50, k) == torch.arange(k)).all()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("k", [1, 7, 90])
def test_ties_go_to_the_lowest_index(dtype, k):
    # Small integers: every score is exact, so equal ones are equal on every backend.
    z = torch.randint(-2, 3, (140, 3)).to(dtype)
    codebook = torch.randint(-1, 2, (90, 3)).to(dtype)
    indices, scores = codebook_lookup(z, codebook, k=k)
    wanted = dense(z, codebook).sort(dim=1, descending=True, stable=True)
    assert torch.equal(indices.reshape(140, k), wanted.indices[:, :k])
    assert torch.equal(scores.reshape(140, k).double(), wanted.values[:, :k])


def test_equal_codes_tie_in_every_column():
    z, code = torch.randn(100, 37), torch.randn(1, 37)
    assert not codebook_lookup(z, code.expand(75, -1))[0].any()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 120),
    size=st.integers(1, 80),
    width=st.integers(0, 40),
    data=st.data(),
)
def test_random_shapes(rows, size, width, data):
    z, codebook = problem(rows, size, width, data.draw(st.sampled_from(list(TOLERANCE))))
    bias = data.draw(st.sampled_from([None, (size,), (rows, size)]))
    if bias is not None:
        bias = torch.randn(bias, dtype=reference.scores_dtype(z))
    check(z, codebook, bias, data.draw(st.integers(1, size)))


def test_non_contiguous():
    z, codebook = torch.randn(11, 40).T, torch.randn(30, 22)[:, ::2]
    bias = torch.randn(30, 40).T
    for k in (1, 4):
        found = codebook_lookup(z, codebook, bias, k)
        wanted = codebook_lookup(z.contiguous(), codebook.contiguous(), bias.contiguous(), k)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_more_scores_than_int32_counts():
    rows, size = 2**16 + 1, 2**15 + 3
    assert rows * size > 2**31
    z = torch.randint(0, size, (rows, 1)).double()
    codebook = torch.arange(size).double()[:, None]  # exact: the nearest code is z itself
    indices, scores = codebook_lookup(z, codebook)
    assert torch.equal(indices, z[:, 0].long())
    assert torch.equal(scores, 0.5 * z[:, 0] ** 2)


@pytest.mark.parametrize("name", ["z", "codebook"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_not_finite(name, value, dtype):
    z, codebook = problem(200, 50, 9, dtype)
    (z if name == "z" else codebook)[-1, 4] = value
    with pytest.raises(RuntimeError, match=f"{name} holds NaN or infinity"):
        codebook_lookup(z, codebook)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", [(50,), (200, 50)])
def test_bias_not_a_number(shape, value):
    z, codebook = problem(200, 50, 9)
    bias = torch.zeros(shape, dtype=torch.float64)
    bias[..., -1] = value
    for k in (1, 2):
        with pytest.raises(RuntimeError, match=r"bias holds NaN or \+inf"):
            codebook_lookup(z, codebook, bias, k)


def test_bad_arguments_say_what_is_wrong():
    z, codebook = problem(4, 5, 3)
    with pytest.raises(ValueError, match=r"z must be \(N, D\) and codebook \(K, D\)"):
        codebook_lookup(z, codebook[:, :2])
    with pytest.raises(ValueError, match="K >= 1"):
        codebook_lookup(z, codebook[:0])
    with pytest.raises(ValueError, match="z must have two dimensions"):
        codebook_lookup(z[None], codebook)
    with pytest.raises(TypeError, match=r"codebook must be float32.*int64"):
        codebook_lookup(z, codebook.long())
    with pytest.raises(ValueError, match=r"k must be in \[1, 5\], got 6"):
        codebook_lookup(z, codebook, k=6)
    with pytest.raises(TypeError, match=r"bias must be torch\.float64"):
        codebook_lookup(z, codebook, torch.zeros(5))
    with pytest.raises(ValueError, match=r"bias must be \(5,\) or \(4, 5\)"):
        codebook_lookup(z, codebook, torch.zeros(5, 4, dtype=torch.float64))
    with pytest.raises(TypeError, match="indices must be int64"):
        codebook_sums(z, torch.zeros(4), 5)
    with pytest.raises(ValueError, match=r"indices must be \(M,\)"):
        codebook_sums(z, torch.zeros(3, dtype=torch.int64), 5)
    for index in (-1, 5):
        with pytest.raises(RuntimeError, match=r"indices must be in \[0, 5\)"):
            codebook_sums(z, torch.tensor([0, 1, 2, index]), 5)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("bias_shape", [None, (7,), (6, 7)])
def test_gradients(k, bias_shape):
    z, codebook = problem(6, 7, 3)
    inputs = [z.requires_grad_(), codebook.requires_grad_()]
    if bias_shape is not None:
        inputs.append(torch.randn(bias_shape, dtype=torch.float64, requires_grad=True))

    def scores(z, codebook, bias=None):
        return codebook_lookup(z, codebook, bias, k)[1]

    assert torch.autograd.gradcheck(scores, inputs)
    assert torch.autograd.gradgradcheck(scores, inputs)
    indices, _ = codebook_lookup(*inputs[:2], k=k)
    assert not indices.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gradients_keep_the_dtype(dtype):
    z, codebook = (t.requires_grad_() for t in problem(40, 9, 5, dtype))
    codebook_lookup(z, codebook)[1].sum().backward()
    wide = [t.detach().double().requires_grad_() for t in (z, codebook)]
    codebook_lookup(*wide)[1].sum().backward()
    for found, wanted in zip((z, codebook), wide, strict=True):
        assert found.grad.dtype == dtype
        bound = 2 * torch.finfo(dtype).eps * wanted.grad.abs().max()
        assert (found.grad.double() - wanted.grad).abs().max() <= bound


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(0, 3, 4), (1, 1, 1), (1000, 7, 5), (3000, 1, 3), (50, 90, 2)])
def test_sums_match_one_hot(dtype, shape):
    rows, size, width = shape
    z, indices = torch.randn(rows, width).to(dtype), torch.randint(0, size, (rows,))
    counts, sums = codebook_sums(z, indices, size)
    one_hot = torch.nn.functional.one_hot(indices, size).double()
    assert torch.equal(counts, one_hot.sum(0).long())
    wanted, scale = one_hot.T @ z.double(), one_hot.T @ z.double().abs()
    assert sums.dtype == reference.scores_dtype(z)
    assert ((sums.double() - wanted).abs() <= 10 * TOLERANCE[dtype] * scale).all()


def test_sums_keep_nan_in_its_code():
    z, indices = torch.randn(2000, 4), torch.randint(0, 6, (2000,))
    z[7] = torch.nan
    _, sums = codebook_sums(z, indices, 6)
    assert sums.isnan().any(1).nonzero().flatten().tolist() == [int(indices[7])]


def test_sums_gradient():
    z, indices = torch.randn(9, 2, dtype=torch.float64), torch.randint(0, 4, (9,))
    sums = lambda z: codebook_sums(z, indices, 4)[1]  # noqa: E731
    assert torch.autograd.gradcheck(sums, (z.requires_grad_(),))
    assert torch.autograd.gradgradcheck(sums, (z,))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("bias_shape", [None, (7,), (6, 7)])
def test_opcheck_lookup(k, bias_shape):
    z, codebook = (t.requires_grad_() for t in problem(6, 7, 3))
    bias = bias_shape and torch.randn(bias_shape, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.sagittal.codebook_lookup, (z, codebook, bias, k))


def test_opcheck_sums():
    z, indices = torch.randn(9, 2, requires_grad=True), torch.randint(0, 4, (9,))
    torch.library.opcheck(torch.ops.sagittal.codebook_sums, (z, indices, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_same_bits_on_one_and_two_threads_and_ten_runs(dtype, threads):
    z, codebook = problem(3001, 257, 48, dtype)
    indices = torch.randint(0, 257, (3001,)) // 3
    results = []
    for count in (1, *[2] * 10):
        threads(count)
        results.append(
            [
                *codebook_lookup(z, codebook),
                *codebook_lookup(z, codebook, k=5),
                *codebook_sums(z, indices, 257),
            ]
        )
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_row_does_not_depend_on_its_neighbours(native):
    if native.mode == "reference":
        pytest.skip("the matrix product of the reference rounds by its shape")
    z, codebook = problem(211, 75, 20, torch.float32)
    whole = codebook_lookup(z, codebook)
    for part in (slice(0, 1), slice(3, 10), slice(200, 211)):
        found = codebook_lookup(z[part], codebook)
        assert all(torch.equal(a, b[part]) for a, b in zip(found, whole, strict=True))


@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_instruction_sets(isa, native):
    if native.mode == "reference":
        pytest.skip(f"no compiled kernels: {native.reason}")
    if isa == "avx2" and native.isa == "portable":
        pytest.skip("this machine has no AVX2")
    tests = f"{__file__}::test_finds_the_best {__file__}::test_bias {__file__}::test_random_shapes"
    ties = f"{__file__}::test_ties_go_to_the_lowest_index"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests.split(), ties],
        env={**os.environ, "SAGITTAL_ISA": isa, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cuda_equals_the_cpu(dtype, shape):
    # Small integers: every score and sum is exact, so all backends agree on every bit.
    z = torch.randint(-3, 4, (shape[0], shape[2])).to(dtype)
    codebook = torch.randint(-3, 4, shape[1:]).to(dtype)
    wide = reference.scores_dtype(z)
    for bias in (None, torch.arange(shape[1]).to(wide), torch.randint(-2, 3, shape[:2]).to(wide)):
        for k in (1, min(3, shape[1])):
            wanted = codebook_lookup(z, codebook, bias, k)
            on_gpu = (t if t is None else t.cuda() for t in (z, codebook, bias))
            found = codebook_lookup(*on_gpu, k)
            assert all(torch.equal(a.cpu(), b) for a, b in zip(found, wanted, strict=True))
    indices = torch.randint(0, shape[1], shape[:1])
    found = codebook_sums(z.cuda(), indices.cuda(), shape[1])
    wanted = codebook_sums(z, indices, shape[1])
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, wanted, strict=True))


TENSOR_SHAPES = [*SHAPES, (3000, 1500, 64), (500, 300, 700), (70000, 40, 8)]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", TENSOR_SHAPES, ids=str)
def test_tensor_cores_give_the_same_bits(dtype, shape, monkeypatch):
    rows, size, width = shape
    z, codebook = (t.cuda() for t in problem(*shape, dtype))
    near = codebook[torch.arange(size) % (size // 5 + 1)]  # near ties, a part of them exact
    near = (near * (1 + 1e-6 * torch.randn(size, width, device="cuda"))).to(dtype)
    far = (z + 100).to(dtype), (codebook + 100).to(dtype)  # all within the margin
    cases = [(z, codebook), (z, near), far, (z * 2.0**-20, codebook)]
    if dtype != torch.float16:
        cases += [(z * 2.0**62, codebook * 2.0**62), (z * 2.0**-70, codebook * 2.0**-70)]
    own = torch.randn(rows, size, device="cuda")
    own[torch.rand_like(own) < 0.3] = -torch.inf
    for pair in cases:
        for bias in (None, torch.randn(size, device="cuda"), own):
            monkeypatch.setenv("SAGITTAL_TENSOR_CORES", "0")
            wanted = codebook_lookup(*pair, bias)
            monkeypatch.setenv("SAGITTAL_TENSOR_CORES", "1")
            found = codebook_lookup(*pair, bias)
            assert torch.equal(found[0], wanted[0])
            assert torch.equal(found[1].view(torch.int32), wanted[1].view(torch.int32))
            assert all(map(torch.equal, found, codebook_lookup(*pair, bias)))


@pytest.mark.cuda
def test_tensor_cores_report_what_is_not_finite(monkeypatch):
    monkeypatch.setenv("SAGITTAL_TENSOR_CORES", "1")
    for place, message in enumerate(("z holds NaN", "codebook holds NaN", "bias holds NaN")):
        tensors = [torch.ones(9, 5), torch.ones(7, 5), torch.zeros(7)]
        tensors[place].view(-1)[-1] = torch.nan
        with pytest.raises(RuntimeError, match=message):
            codebook_lookup(*(t.cuda() for t in tensors))
    monkeypatch.setenv("SAGITTAL_TENSOR_CORES", "yes")
    with pytest.raises(RuntimeError, match="SAGITTAL_TENSOR_CORES must be 0 or 1; got yes"):
        codebook_lookup(*(torch.ones(2, 2, device="cuda") for _ in range(2)))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_gives_the_same_bits_twice(dtype):
    z, codebook = (t.cuda() for t in problem(5000, 700, 48, dtype))
    indices = torch.randint(0, 300, (5000,), device="cuda")
    first = [*codebook_lookup(z, codebook, k=3), *codebook_sums(z, indices, 700)]
    again = [*codebook_lookup(z, codebook, k=3), *codebook_sums(z, indices, 700)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
