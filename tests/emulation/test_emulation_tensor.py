"""The codebook lookup by tensor cores, on fibers: the same bits as the ordinary kernel's.

The tensor cores' twin has their layout, drops the bits that TF32 lacks and cuts sums towards zero.
"""

from __future__ import annotations

import ctypes

import pytest
import torch

from sagittal_core.ops import reference_codebook as reference

TYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 3}
ROWS, CODES, WIDTH = 131, 259, 37  # no multiples of a tile; two and three of them
SHUFFLED, SEED = 2, 7
H100, LEAST = 227 * 1024, 48 * 1024  # shared memory a block: that GPU's; two stages of rows


@pytest.fixture(scope="session")
def library(emulated):
    return emulated("codebook_emulated.cpp")


def pointer(tensor):
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def lookup(library, order, z, codebook, bias=None, share=None, room=H100):
    """Indices, scores, and what was found: three faults, rows left over, candidates.

    ``share``: of the margin, None for the ordinary kernel. ``room``: a block's shared memory.
    """
    scores, indices = torch.full((len(z), 1), torch.nan), torch.full((len(z), 1), -1)
    found = (ctypes.c_int * 5)()
    numbers = [len(z), len(codebook), z.shape[1]]
    given = [
        pointer(z),
        pointer(codebook),
        pointer(bias),
        int(bias is not None and bias.dim() == 1),
    ]
    sizes = [ctypes.c_int64(number) for number in numbers]
    sizes += [ctypes.c_int64(1)] if share is None else [ctypes.c_float(share), room]
    run = library.emulate_lookup if share is None else library.emulate_tensor_lookup
    out = [pointer(scores), pointer(indices), found]
    error = run(TYPES[z.dtype], *given, *sizes, *out, order, SEED)
    assert error is None, error
    return indices, scores, list(found)


def same_bits(library, order, z, codebook, bias=None, share=1.0, room=H100):
    """Whether both kernels agree; rows left to the ordinary one, candidates of the others."""
    wanted = lookup(library, order, z, codebook, bias)
    found = lookup(library, order, z, codebook, bias, share, room)
    assert found[2][:3] == wanted[2][:3] == [0, 0, 0]
    scores = found[1].view(torch.int32), wanted[1].view(torch.int32)
    return torch.equal(found[0], wanted[0]) and torch.equal(*scores), *found[2][3:]


# --- one product ----------------------------------------------------------------------------------


def product(library, order, a, b, c, round_first=False):
    result = c.clone()
    given = a.clone().contiguous(), b.clone().contiguous()
    tensors = [pointer(t) for t in (*given, result)]
    error = library.emulate_product(TYPES[a.dtype], *tensors, int(round_first), order, SEED)
    assert error is None, error
    return result


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_product_has_the_layout_of_words(library, order, dtype):
    torch.manual_seed(0)
    width = 8 if dtype == torch.float32 else 16
    a, b = torch.randint(-9, 10, (16, width)).to(dtype), torch.randint(-9, 10, (8, width)).to(dtype)
    c = torch.randint(-9, 10, (16, 8)).float()
    assert torch.equal(product(library, order, a, b, c), c + a.float() @ b.float().T)


def test_tf32_rounds_to_nearest_and_the_product_drops_the_rest(library):
    a, b, c = torch.zeros(16, 8), torch.zeros(8, 8), torch.zeros(16, 8)
    b[0] = 1
    half, step = 2.0**-11, 2.0**-10
    given = torch.tensor([1 + half, 1 + half * 0.999, 1 + 1.5 * step, -1 - half, 1 + step, 3e38])
    a[:6, 0] = given
    nearest = torch.tensor([1 + step, 1, 1 + 2 * step, -1 - step, 1 + step])
    assert torch.equal(product(library, 0, a, b, c, round_first=True)[:5, 0], nearest)
    dropped = torch.tensor([1, 1, 1 + step, -1, 1 + step])
    assert torch.equal(product(library, 0, a, b, c)[:5, 0], dropped)


def test_sums_are_cut_towards_zero(library):
    a, b = torch.zeros(16, 8), torch.zeros(8, 8)
    a[0, 0], b[0, 0] = 2.0**-24 * 1.5, 1
    c = torch.zeros(16, 8)
    c[0, 0] = 1  # to nearest: 1 + 2^-23
    assert product(library, 0, a, b, c)[0, 0] == 1
    c[0, 0] = -1
    assert product(library, 0, -a, b, c)[0, 0] == -1


# --- the lookup -----------------------------------------------------------------------------------


def problem(kind, dtype, rows=ROWS, size=CODES, width=WIDTH):
    """Rows and codes that are hard in one way; how few and how many rows may be left over."""
    torch.manual_seed(len(kind))
    z, codebook = torch.randn(rows, width), torch.randn(size, width)
    choice, left = torch.randint(0, size, (rows,)), (0, 0)
    if kind == "clustered":
        z = codebook[choice] + 0.05 * z
    elif kind == "duplicated":  # each code five times
        codebook = codebook[torch.randperm(size) % (size // 5)]
    elif kind == "often":  # six codes more often than a warp keeps
        codebook, left = codebook[torch.arange(size) % 6], (rows, rows)
    elif kind == "near ties":  # five times, but for the last bits
        codebook = codebook[torch.arange(size) % (size // 5)]
        codebook = codebook * (1 + 1e-6 * torch.randn(size, width))
        z = codebook[choice] * (1 + 1e-4 * torch.randn(rows, width))
    elif kind == "far":  # nearly parallel: all codes within the margin
        z, codebook, left = z + 200, codebook * 0.1 + 200, (rows, rows)
    elif kind == "equal":
        codebook, left = codebook[:1].expand(size, width).contiguous(), (rows, rows)
    elif kind == "norms":  # from 2^-7 to 2^7
        z *= 2.0 ** torch.randint(-7, 8, (rows, 1))
        codebook *= 2.0 ** torch.randint(-7, 8, (size, 1))
    else:
        assert kind == "random"
    return z.to(dtype), codebook.to(dtype), left


KINDS = ["random", "clustered", "duplicated", "often", "near ties", "far", "equal", "norms"]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_bits_are_those_of_the_ordinary_kernel(library, dtype, kind):
    z, codebook, (fewest, most) = problem(kind, dtype)
    same, left, candidates = same_bits(library, SHUFFLED, z, codebook)
    assert same
    assert fewest <= left <= most
    if kind in ("random", "clustered"):  # few enough to be worth while
        assert candidates <= 1.1 * len(z)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_in_every_order_of_threads(library, order, dtype):
    z, codebook, _ = problem("near ties", dtype)
    assert same_bits(library, order, z, codebook) == (True, 0, 5 * ROWS + 10)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_margin_is_needed(library, dtype):
    """Without it the tensor cores' own order decides, and these data see that."""
    torch.manual_seed(0)
    # One code in six orders and rows of one number: sums that differ by their roundings only.
    code = torch.randn(512)
    codebook = torch.stack([code[torch.randperm(512)] for _ in range(6)]).to(dtype)
    z = (1000 * torch.rand(40, 1).expand(40, 512)).contiguous().to(dtype)
    assert same_bits(library, 0, z, codebook) == (True, 0, 240)
    assert not same_bits(library, 0, z, codebook, share=0)[0]


def test_candidates_that_a_later_code_beats_are_forgotten(library):
    """Codes in ascending order of their score: each tile makes those before it outdated."""
    z, codebook = torch.ones(5, 3), torch.zeros(700, 3)
    bias = torch.arange(700) // 7 * 1.0  # seven equal ones at a time
    assert same_bits(library, SHUFFLED, z, codebook, bias) == (True, 0, 35)


def test_roundings_that_all_point_one_way(library):
    """A better code whose factors are all rounded down beside one whose factors go up."""
    down, up = (1 + 2.0**-11 * (1 + sign * 2.0**-10) for sign in (-1, 1))
    z, codebook = torch.zeros(3, 64), torch.zeros(40, 64)
    z[:, :32], z[:, 32:] = down, up
    codebook[9, :32], codebook[7, 32:] = down, up
    scores = reference.codebook_lookup(z.double(), codebook.double(), None, 40)
    exact = dict(zip(scores[1][0].tolist(), scores[0][0].tolist(), strict=True))
    bias = torch.full((40,), -9.0)
    bias[7], bias[9] = 0, exact[7] - exact[9] + 1e-4
    assert lookup(library, 0, z, codebook, bias)[0].tolist() == [[9]] * 3
    assert same_bits(library, 0, z, codebook, bias) == (True, 0, 6)
    # |z| counts the other half of the dimensions too: 0.7 of the margin would do, 0.65 would not.
    assert not same_bits(library, 0, z, codebook, bias, share=0.65)[0]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("width", [96, 97])
def test_rows_that_do_not_fit_are_read_again(library, order, dtype, width):
    z, codebook, _ = problem("random", dtype, 20, 150, width * (4 // dtype.itemsize))
    for room in (LEAST, H100):
        assert same_bits(library, order, z, codebook, room=room)[:2] == (True, 0)


SHAPES = [(0, 3, 5), (1, 1, 1), (3, 2, 0), (2, 129, 16), (129, 17, 64), (5, 130, 100)]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ragged_shapes_biases_and_ties(library, dtype, shape):
    rows, size, width = shape
    torch.manual_seed(1)
    z = torch.randn(rows, width).round().to(dtype)  # small integers: full of ties
    codebook = torch.randn(size, width).round().to(dtype)
    for bias in (None, torch.randn(size), torch.randn(rows, size)):
        assert same_bits(library, SHUFFLED, z, codebook, bias)[0]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("ruled_out", [-torch.inf, torch.finfo(torch.float32).min, -1e30])
def test_codes_that_a_bias_rules_out(library, dtype, ruled_out):
    z, codebook, _ = problem("random", dtype, rows=9)
    shared = torch.zeros(CODES)
    shared[:200] = ruled_out  # all of the first tile
    assert same_bits(library, SHUFFLED, z, codebook, shared)[:2] == (True, 0)
    own = torch.where(torch.rand(9, CODES) < 0.5, ruled_out, 0.0)
    assert same_bits(library, SHUFFLED, z, codebook, own)[:2] == (True, 0)
    own[4] = ruled_out  # every code: the lowest index
    same, left, _ = same_bits(library, SHUFFLED, z, codebook, own)
    assert same
    assert left == (0 if ruled_out == -torch.inf else 1)
    shared[:] = ruled_out
    assert same_bits(library, SHUFFLED, z, codebook, shared)[0]


@pytest.mark.parametrize("large", [3e38, 1e20, 1e6])
def test_large_biases(library, large):
    z, codebook, _ = problem("random", torch.float32, rows=9)
    for bias in (large * torch.randn(CODES).clamp(-1, 1), large * torch.rand(9, CODES)):
        assert same_bits(library, SHUFFLED, z, codebook, bias)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "powers", [(62, 62), (45, 44), (-70, -70), (-140, 0), (0, -133), (90, -100)]
)
def test_scales_up_to_overflow_and_underflow(library, dtype, powers):
    z, codebook, _ = problem("near ties", torch.float32, rows=9)
    z, codebook = z * 2.0 ** powers[0], codebook * 2.0 ** powers[1]
    same, left, _ = same_bits(library, SHUFFLED, z.to(dtype), codebook.to(dtype))
    assert same
    if powers == (62, 62):
        assert left == 9  # might overflow
    if powers == (45, 44):
        codebook = codebook[:51]  # without near ties nothing is left over
        assert same_bits(library, SHUFFLED, z.to(dtype), codebook.to(dtype))[:2] == (True, 0)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_reported(library, dtype, value):
    z, codebook = torch.ones(9, 5, dtype=dtype), torch.ones(7, 5, dtype=dtype)
    for bias in (torch.zeros(7), torch.zeros(9, 7)):
        for place, tensor in enumerate((z, codebook, bias)):
            tensor.view(-1)[-1] = value
            assert lookup(library, SHUFFLED, z, codebook, bias, 1.0)[2][place] == 1
            tensor.view(-1)[-1] = 0
        assert lookup(library, SHUFFLED, z, codebook, bias, 1.0)[2][:3] == [0, 0, 0]
