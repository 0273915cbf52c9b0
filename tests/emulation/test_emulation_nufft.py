"""The CUDA kernels of the NUFFT family, run on fibers in three orders, against the reference."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch

from sagittal_core.ops import nufft_plan, reference

FORWARD, REVERSE, SHUFFLED = range(3)
BOUND = {torch.complex64: 2e-6, torch.complex128: 1e-14}
DTYPES = list(BOUND)
# One tile that meets itself beyond the seam, tiles of two sizes, wide footprints, cubes.
PROBLEMS = [((17, 20), 1e-5), ((79, 61), 1e-2), ((36, 50), 1e-9), ((9, 8, 15), 1e-3)]
MEMORY = (64 << 10, 256 << 20)  # bytes of cells in shared memory, of the workspace


@pytest.fixture(scope="module")
def library(emulated):
    return emulated("nufft_emulated.cpp")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def pointers(*tensors):
    return [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]


def numbers(*values):
    return (ctypes.c_int64 * len(values))(*values)


def wide(tensor):
    return int(tensor.dtype in (torch.complex128, torch.float64))


def blank(shape, dtype):
    return torch.full(shape, math.nan, dtype=dtype)


def relative(found, wanted):
    if not wanted.numel() or not wanted.any():
        return float(found.abs().sum())
    return float((found - wanted).norm() / wanted.norm())


def trajectory(*shape):
    """Random frequencies with both ends of the range, and points that repeat."""
    omega = (torch.rand(*shape, dtype=torch.float64) * 2 - 1) * math.pi
    if shape[-2] > 20:
        omega[..., 0, :], omega[..., 1, :] = math.pi, -math.pi
        omega[..., 2, :] = 0
        omega[..., 3:20, :] = omega[..., 2:3, :]
    return omega


def run_gridding(library, turns, name, data, plan, memory=MEMORY, **changed):
    """``spread`` or ``interp`` of ``data`` (T, C, ...), and the two faults."""
    fields = ("points", "order", "offsets", "coefficients")
    tensors = [changed.get(field, getattr(plan, field)).contiguous() for field in fields]
    frames, count, dims = tensors[0].shape
    three = [(t[0], 1, t[1]) if dims == 2 else tuple(t) for t in (plan.grid_shape, plan.tiles)]
    rows, width = plan.coefficients.shape
    coils, spreads = data.shape[1], name == "spread"
    out = blank((frames, coils, *(plan.grid_shape if spreads else (count,))), data.dtype)
    shape = numbers(frames, coils, count, *three[0], *three[1], dims, width, rows)
    faults = (ctypes.c_int * 2)()
    given = pointers(*tensors, data, out)
    limits = numbers(*memory)
    error = library.emulate_gridding(
        wide(data), int(spreads), shape, limits, *given, faults, turns, 7
    )
    assert error is None, error
    return out, tuple(faults)


def check_gridding(library, order, plan, coils, dtype, memory=MEMORY):
    """Both against the reference; what they gave."""
    frames, count, _ = plan.points.shape
    arguments = (plan.points, plan.order, plan.offsets, plan.coefficients)
    samples = torch.randn(frames, coils, count, dtype=dtype)
    grid = torch.randn(frames, coils, *plan.grid_shape, dtype=dtype)
    found, faults = run_gridding(library, order, "spread", samples, plan, memory)
    wanted = reference.spread(samples, *arguments, plan.grid_shape, plan.tiles)
    assert relative(found, wanted) < BOUND[dtype]
    assert faults == (0, 0)
    back, faults = run_gridding(library, order, "interp", grid, plan, memory)
    assert relative(back, reference.interp(grid, *arguments, plan.tiles)) < BOUND[dtype]
    assert faults == (0, 0)
    return found, back


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("coils", [1, 2, 3, 8, 9])
@pytest.mark.parametrize(("shape", "tol"), PROBLEMS, ids=str)
def test_gridding(library, order, shape, tol, coils, dtype):
    check_gridding(library, order, nufft_plan(trajectory(70, len(shape)), shape, tol), coils, dtype)


def test_problems_cover_the_cases():
    plans = [nufft_plan(trajectory(70, len(shape)), shape, tol) for shape, tol in PROBLEMS]
    assert plans[0].tiles == (1, 1)
    assert plans[1].grid_shape[0] % plans[1].tiles[0]
    assert plans[1].tiles[0] > 3
    assert plans[2].tiles == (2, 2)  # both neighbours are one tile
    assert [plan.coefficients.shape[1] for plan in plans] == [9, 4, 16, 6]


@pytest.mark.parametrize("count", [0, 1, 20])
@pytest.mark.parametrize("frames", [1, 3])
def test_few_points_and_frames(library, order, frames, count):
    plan = nufft_plan(trajectory(frames, count, 2), (30, 41), 1e-4)
    for dtype in DTYPES:
        found, _ = check_gridding(library, order, plan, 3, dtype)
        assert count or not found.any()


def test_an_empty_batch(library, order):
    plan = nufft_plan(trajectory(0, 7, 2), (30, 41), 1e-4)
    check_gridding(library, order, plan, 3, torch.complex64)
    plan = nufft_plan(trajectory(7, 2), (30, 41), 1e-4)
    check_gridding(library, order, plan, 0, torch.complex64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_crowded_tile_has_many_slots(library, order, dtype):
    """All points in one place, in more slots than there are tiles; then a workspace for three."""
    omega = trajectory(1500, 2) * 0.02
    plan = nufft_plan(omega, (40, 40), 1e-3)
    assert math.prod(plan.tiles) < 1500 // 256
    check_gridding(library, order, plan, 2, dtype)
    check_gridding(library, order, plan, 2, dtype, (MEMORY[0], 100_000))


@pytest.mark.parametrize(
    ("shape", "buffer"), [((45, 61), 1500), ((9, 8, 15), 1500), ((5, 6, 7), 300)]
)
def test_little_memory(library, order, shape, buffer):
    """Tiles in boxes, of one row in the end; coils in groups; one slot of a lane at a time."""
    plan = nufft_plan(trajectory(40, len(shape)), shape, 1e-2)
    for dtype in DTYPES:
        check_gridding(library, order, plan, 3, dtype, (buffer, 1))


def test_the_order_of_threads_changes_no_bit(library):
    plan = nufft_plan(trajectory(2, 400, 2), (45, 61), 1e-4)
    samples = torch.randn(2, 5, 400, dtype=torch.complex64)
    grid = torch.randn(2, 5, *plan.grid_shape, dtype=torch.complex64)
    for name, data in (("spread", samples), ("interp", grid)):
        found = [
            run_gridding(library, o, name, data, plan)[0] for o in (FORWARD, REVERSE, SHUFFLED)
        ]
        assert all(torch.equal(found[0], other) for other in found[1:])


def test_nan_stays_in_its_footprints(library, order):
    plan = nufft_plan(trajectory(50, 2), (45, 61), 1e-3)
    arguments = (plan.points, plan.order, plan.offsets, plan.coefficients)
    samples = torch.randn(1, 3, 50, dtype=torch.complex64)
    samples[0, 1, 30] = math.nan
    found, _ = run_gridding(library, order, "spread", samples, plan)
    wanted = reference.spread(samples, *arguments, plan.grid_shape, plan.tiles)
    assert torch.equal(found.isnan(), wanted.isnan())
    grid = torch.randn(1, 3, *plan.grid_shape, dtype=torch.complex64)
    grid[0, 1, ::9, ::11] = math.nan
    found, _ = run_gridding(library, order, "interp", grid, plan)
    wanted = reference.interp(grid, *arguments, plan.tiles)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert wanted.isnan().any()
    assert not wanted[0, 1].isnan().all()


def test_faults_are_reported_and_stay_in_bounds(library, order):
    plan = nufft_plan(trajectory(300, 2), (60, 70), 1e-3)
    data = {
        "spread": torch.randn(1, 2, 300, dtype=torch.complex64),
        "interp": torch.randn(1, 2, *plan.grid_shape, dtype=torch.complex64),
    }
    for name in data:
        for changed, wanted in [
            ({"order": plan.order.flip(1)}, (0, 1)),
            ({"order": plan.order + 300}, (0, 1)),
            ({"order": plan.order - 301}, (0, 1)),
            ({"points": plan.points * math.nan}, (0, 1)),
            ({"points": plan.points + 1e30}, (0, 1)),
            ({"offsets": plan.offsets + 1}, (1, 0)),
            ({"offsets": plan.offsets.flip(1)}, (1, 0)),
            ({"offsets": plan.offsets * -(1 << 40)}, (1, 0)),
        ]:
            _, faults = run_gridding(library, order, name, data[name], plan, **changed)
            assert all(a >= b for a, b in zip(faults, wanted, strict=True)), changed


# --- Toeplitz passes --------------------------------------------------------------------------


def call(function, *arguments):
    error = function(*arguments)
    assert error is None, error


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1), (33, 65), (32, 32), (1, 70), (70, 1), (5, 9, 7), (40, 0)], ids=str
)
def test_toeplitz_passes(library, order, shape, dtype):
    n, rest = shape[0], math.prod(shape[1:])
    wave = torch.randn(n, dtype=dtype)
    for batch, coils, shared in ((2, 3, False), (2, 9, True), (1, 1, True), (0, 2, True)):
        image = torch.randn(batch, *shape, dtype=dtype)
        maps = torch.randn(1 if shared else batch, coils, *shape, dtype=dtype)
        sizes = numbers(n, rest, batch, coils, shared)
        bound = BOUND[dtype]

        turned = blank((batch, coils, 2, *shape[1:], n), dtype)
        tensors = pointers(image, maps, wave, turned)
        call(library.emulate_turn, wide(image), sizes, *tensors, order, 7)
        assert relative(turned, reference.toeplitz_expand(image, maps, wave)) < bound

        coil_images = torch.randn_like(torch.zeros_like(turned))
        reduced = blank(image.shape, dtype)
        tensors = pointers(coil_images, maps, wave, image, reduced)
        call(library.emulate_reduce, wide(image), sizes, *tensors, order, 7)
        wanted = reference.toeplitz_reduce(coil_images, maps, wave, image)
        assert relative(reduced, wanted) < bound

        x = torch.randn(batch, n, rest, dtype=dtype)
        turned = blank((batch, 2, rest, n), dtype)
        tensors = pointers(x, None, wave, turned)
        call(library.emulate_turn, wide(x), numbers(n, rest, batch, 1, 0), *tensors, order, 7)
        assert relative(turned, reference.toeplitz_turn(x, wave)) < bound

        y = torch.randn(batch, 2, rest, n, dtype=dtype)
        unturned = blank((batch, n, rest), dtype)
        tensors = pointers(y, wave, unturned)
        call(library.emulate_unturn, wide(y), numbers(n, rest, batch), *tensors, order, 7)
        assert relative(unturned, reference.toeplitz_unturn(y, wave)) < bound

        kernel = torch.rand(1 if shared else batch, *shape, dtype=dtype.to_real())
        spectrum = torch.randn(batch, coils, *shape, dtype=dtype)
        filtered = blank(spectrum.shape, dtype)
        tensors = pointers(spectrum, kernel, filtered)
        sizes = numbers(n * rest, batch, coils, shared)
        call(library.emulate_filter, wide(spectrum), sizes, *tensors, order, 7)
        assert torch.equal(filtered, reference.toeplitz_filter(spectrum, kernel))


# --- conjugate gradients ------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize(
    ("n", "least", "most"),
    [(0, 2048, 1024), (1, 2048, 1024), (4100, 2048, 1024), (203, 8, 3), (1060, 4, 300)],
)
def test_cg_step(library, order, n, least, most, dtype, bound):
    """Chunks of at least ``least`` numbers, ``most`` of them: more than a block has threads too."""
    if n == 1060 and order != SHUFFLED:
        pytest.skip("many blocks: one order")
    x, r, p = (torch.randn(4, n, dtype=dtype) for _ in range(3))
    q = p * (1 + torch.rand_like(p))
    rs, stop = (r * r).sum(1), torch.zeros(4, dtype=dtype)
    stop[1] = rs[1]  # converged
    q[2] = -p[2]  # no curvature
    rs[3] = math.nan
    given = (x, r, p, q, rs, stop)
    out = [torch.full_like(t, math.inf) for t in (x, r, p, rs)]
    ins = (ctypes.c_void_p * 6)(*(t.data_ptr() for t in given))
    outs = (ctypes.c_void_p * 4)(*(t.data_ptr() for t in out))
    call(library.emulate_step, wide(x), numbers(4, n, least, most), ins, outs, order, 7)
    for found, wanted, start in zip(out, reference.cg_step(*given), (x, r, p, rs), strict=True):
        torch.testing.assert_close(found, wanted, rtol=bound, atol=bound, equal_nan=True)
        assert torch.equal(found[1:3], start[1:3])
