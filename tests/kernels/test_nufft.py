import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_core.ops import nufft_plan, nufft_type1, nufft_type2, reference

SHAPES = [(12, 15), (40, 33), (1, 6), (7, 8, 9)]


def complex_randn(*shape, dtype=torch.complex128):
    return torch.randn(*shape, dtype=dtype)


def frequencies(*shape, dtype=torch.float64):
    omega = (torch.rand(*shape, dtype=dtype) * 2 - 1) * math.pi
    if shape[-2] > 3:
        omega[..., 0, :] = math.pi
        omega[..., 1, :] = -math.pi
        omega[..., 2, :] = omega[..., 3, :]
    return omega


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-9])
def test_meets_tolerance_in_double(shape, tol):
    omega = frequencies(200, len(shape))
    x, y = complex_randn(2, *shape), complex_randn(2, 200)
    assert relative(nufft_type2(x, omega, tol), reference.nudft_type2(x, omega)) <= tol
    assert (
        relative(nufft_type1(y, omega, shape, tol), reference.nudft_type1(y, omega, shape)) <= tol
    )


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-5])
def test_meets_tolerance_in_single(tol):
    omega = frequencies(300, 2)
    x, y = complex_randn(2, 64, 50), complex_randn(2, 300)
    found = nufft_type2(x.to(torch.complex64), omega.float(), tol)
    assert found.dtype == torch.complex64
    # The oracle sees the trajectory as it was rounded.
    exact = omega.float().double().clamp(-math.pi, math.pi)
    assert relative(found, reference.nudft_type2(x, exact)) <= tol
    found = nufft_type1(y.to(torch.complex64), omega.float(), (64, 50), tol)
    assert relative(found, reference.nudft_type1(y, exact, (64, 50))) <= tol


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 20), min_size=2, max_size=3),
    count=st.integers(0, 30),
    coils=st.integers(0, 3),
    frames=st.integers(0, 2),
)
def test_adjoint(shape, count, coils, frames):
    """<A x, y> = <x, A^H y>; frames = 0 stands for one trajectory without a frame dimension."""
    lead = (frames, coils) if frames else (coils,)
    omega = frequencies(*((frames,) if frames else ()), count, len(shape))
    x, y = complex_randn(*lead, *shape), complex_randn(*lead, count)
    forward = nufft_type2(x, omega)
    backward = nufft_type1(y, omega, tuple(shape))
    assert forward.shape == y.shape
    assert backward.shape == x.shape
    left, right = (forward.conj() * y).sum(), (x.conj() * backward).sum()
    scale = float(forward.norm() * y.norm()) or 1.0
    assert abs(left - right) <= 1e-12 * scale


def test_frames_are_independent_transforms():
    omega, x = frequencies(3, 50, 2), complex_randn(3, 2, 9, 10)
    found = nufft_type2(x, omega)
    for t in range(3):
        torch.testing.assert_close(found[t], nufft_type2(x[t], omega[t]), rtol=1e-13, atol=1e-13)


def test_no_samples_gives_zero_image():
    omega = torch.zeros(0, 2, dtype=torch.float64)
    image = nufft_type1(complex_randn(2, 0), omega, (5, 6))
    assert image.shape == (2, 5, 6)
    assert not image.any()


def test_non_contiguous_and_conjugated_views():
    omega = frequencies(2, 40).T
    x = complex_randn(10, 3, 9).transpose(0, 1).conj()
    wanted = nufft_type2(x.resolve_conj().contiguous(), omega.contiguous())
    torch.testing.assert_close(nufft_type2(x, omega), wanted, rtol=0, atol=0)


def test_plan_gives_the_same_bits():
    omega, x = frequencies(40, 2), complex_randn(9, 10)
    plan = nufft_plan(omega, (9, 10), 1e-5)
    assert torch.equal(nufft_type2(x, omega, 1e-5, plan=plan), nufft_type2(x, omega, 1e-5))
    with pytest.raises(ValueError, match="plan was built for"):
        nufft_type2(complex_randn(9, 11), omega, 1e-5, plan=plan)
    with pytest.raises(ValueError, match="plan was built for"):
        nufft_type2(x, omega, 1e-6, plan=plan)


def test_a_plan_of_another_trajectory_is_refused():
    omega, x = frequencies(40, 2), complex_randn(9, 10)
    plan = nufft_plan(omega, (9, 10))
    with pytest.raises(ValueError, match="another trajectory"):
        nufft_type2(x, frequencies(40, 2) * 0.5, plan=plan)
    omega[3] *= 0.5  # in place: the plan holds what it was built for
    with pytest.raises(ValueError, match="another trajectory"):
        nufft_type1(complex_randn(40), omega, (9, 10), plan=plan)
    # Single precision may use the plan of its own numbers in double.
    single = frequencies(40, 2, dtype=torch.float32)
    wide = nufft_plan(single.double(), (9, 10))
    nufft_type2(x.to(torch.complex64), single, plan=wide)


@pytest.mark.parametrize("frames", [(), (2,)])
def test_vmap_over_the_data(frames):
    omega, x, y = frequencies(*frames, 20, 2), complex_randn(3, 2, 7, 6), complex_randn(3, 2, 20)
    found = torch.func.vmap(lambda a: nufft_type2(a, omega), in_dims=0, out_dims=1)(x)
    torch.testing.assert_close(found, torch.stack([nufft_type2(a, omega) for a in x], 1))
    found = torch.func.vmap(lambda a: nufft_type1(a, omega, (7, 6)))(y)
    torch.testing.assert_close(found, torch.stack([nufft_type1(a, omega, (7, 6)) for a in y]))
    with pytest.raises(ValueError, match="as frames"):
        torch.func.vmap(nufft_type2)(x[:2], frequencies(2, 20, 2))


def test_functional_gradients_are_those_of_autograd():
    omega, x, y = frequencies(20, 2), complex_randn(3, 7, 6), complex_randn(3, 20)

    def product(o, a, b):
        return (nufft_type2(a, o, 1e-8) * b).real.sum()

    leaves = omega.clone().requires_grad_(), x.clone().requires_grad_()
    wanted = torch.autograd.grad(product(*leaves, y), leaves)
    found = torch.func.grad(product, argnums=(0, 1))(omega, x, y)
    torch.testing.assert_close(found, wanted)
    each = torch.func.vmap(torch.func.grad(product), in_dims=(None, 0, 0))(omega, x, y)
    torch.testing.assert_close(each.sum(0), wanted[0])


def test_a_changed_trajectory_gets_a_plan_of_its_own():
    omega, x = frequencies(40, 2), complex_randn(9, 10)
    before = nufft_type2(x, omega)
    assert torch.equal(nufft_type2(x, omega.clone()), before)
    omega[7] *= 0.5  # in place: the same tensor, other numbers
    found = nufft_type2(x, omega)
    assert relative(found, reference.nudft_type2(x, omega)) < 1e-4
    assert relative(nufft_type2(x, omega, 1e-9), reference.nudft_type2(x, omega)) < 1e-9
    assert not torch.equal(found[7], before[7])


@pytest.mark.parametrize("shape", [(64, 70), (20, 18, 22)])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_same_bits_on_one_and_two_threads(shape, dtype, threads):
    omega = frequencies(5000, len(shape), dtype=dtype.to_real())
    x, y = complex_randn(3, *shape, dtype=dtype), complex_randn(3, 5000, dtype=dtype)
    plan = nufft_plan(omega, shape)
    results = []
    for count in (1, 2):
        threads(count)
        grid = torch.ops.sagittal.spread(
            y[None], *gridding_arguments(plan), plan.grid_shape, plan.tiles
        )
        results.append((nufft_type2(x, omega), nufft_type1(y, omega, shape), grid))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
def test_gradients(shape):
    omega = frequencies(4, len(shape)) * 0.9
    x, y = complex_randn(1, *shape), complex_randn(1, 4)
    for tensor in (omega, x, y):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, w: nufft_type2(a, w, 1e-8), (x, omega))
    assert torch.autograd.gradcheck(lambda a, w: nufft_type1(a, w, shape, 1e-8), (y, omega))
    if len(shape) == 2:
        assert torch.autograd.gradgradcheck(lambda a, w: nufft_type2(a, w, 1e-8), (x, omega))


def test_gradients_with_frames():
    omega, x = (frequencies(2, 4, 2) * 0.9).requires_grad_(), complex_randn(2, 3, 4)
    assert torch.autograd.gradcheck(lambda w: nufft_type2(x, w, 1e-12), (omega,))


def test_nan_stays_in_its_coil():
    omega, x = frequencies(40, 2), complex_randn(2, 9, 10)
    x[0, 3, 3] = math.nan
    found = nufft_type2(x, omega)
    assert found[0].isnan().all()
    assert not found[1].isnan().any()


@pytest.mark.parametrize("framed", [False, True])
def test_agrees_with_torchkbnufft(framed):
    pytest.importorskip("torchkbnufft")
    lead = (2, 3) if framed else (3,)
    omega = frequencies(*lead[:-1], 60, 2)
    x, y = complex_randn(*lead, 12, 15), complex_randn(*lead, 60)
    other = nufft_type2(x, omega, backend="torchkbnufft")
    assert relative(other, nufft_type2(x, omega, 1e-9)) < 3e-3
    other = nufft_type1(y, omega, (12, 15), backend="torchkbnufft")
    assert relative(other, nufft_type1(y, omega, (12, 15), 1e-9)) < 3e-3


def test_bad_arguments_say_what_is_wrong():
    omega, x = frequencies(10, 2), complex_randn(4, 5)
    with pytest.raises(ValueError, match="radians per pixel"):
        nufft_type2(x, omega * 2)
    with pytest.raises(ValueError, match="holds NaN"):
        nufft_type2(x, omega * math.nan)
    with pytest.raises(TypeError, match="must be complex"):
        nufft_type2(x.real, omega)
    with pytest.raises(TypeError, match=r"trajectory must be torch\.float64"):
        nufft_type2(x, omega.float())
    with pytest.raises(ValueError, match="differ in M"):
        nufft_type1(complex_randn(9), omega, (4, 5))
    with pytest.raises(ValueError, match="does not fit a trajectory"):
        nufft_type1(complex_randn(10), omega, (4, 5, 6))
    with pytest.raises(ValueError, match="has 2 frames"):
        nufft_type2(complex_randn(3, 4, 5), frequencies(2, 10, 2))
    with pytest.raises(ValueError, match="on meta, the trajectory on cpu"):
        nufft_type2(x.to("meta"), omega)
    with pytest.raises(ValueError, match="meta tensors have none"):
        nufft_type2(x.to("meta"), omega.to("meta"))
    with pytest.raises(ValueError, match="backend must be"):
        nufft_type2(x, omega, backend="other")
    with pytest.raises(ValueError, match=r"can't be met in torch\.complex64"):
        nufft_type2(x.to(torch.complex64), omega.float(), 1e-9)


def gridding_arguments(plan):
    return plan.points, plan.order, plan.offsets, plan.coefficients


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("coils", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize(("shape", "tol"), [((17, 20), 1e-5), ((90, 70), 1e-2), ((9, 8, 30), 1e-4)])
def test_kernels_follow_the_reference(dtype, coils, shape, tol):
    plan = nufft_plan(frequencies(2, 300, len(shape)), shape, tol)
    arguments = gridding_arguments(plan)
    samples = complex_randn(2, coils, 300, dtype=dtype)
    grid = complex_randn(2, coils, *plan.grid_shape, dtype=dtype)
    bound = 1e-5 if dtype == torch.complex64 else 1e-13
    found = torch.ops.sagittal.spread(samples, *arguments, plan.grid_shape, plan.tiles)
    wanted = reference.spread(samples, *arguments, plan.grid_shape, plan.tiles)
    assert relative(found, wanted) < bound
    found = torch.ops.sagittal.interp(grid, *arguments, plan.tiles)
    assert relative(found, reference.interp(grid, *arguments, plan.tiles)) < bound


def test_opcheck():
    plan = nufft_plan(frequencies(2, 30, 2), (17, 20), 1e-5)
    arguments = gridding_arguments(plan)
    samples = complex_randn(2, 3, 30).requires_grad_()
    grid = complex_randn(2, 3, *plan.grid_shape).requires_grad_()
    ops = torch.ops.sagittal
    torch.library.opcheck(ops.spread, (samples, *arguments, plan.grid_shape, plan.tiles))
    torch.library.opcheck(ops.interp, (grid, *arguments, plan.tiles))


def test_ten_runs_give_the_same_bits(threads):
    threads(2)
    omega = frequencies(3000, 2, dtype=torch.float32)
    x = complex_randn(5, 48, 52, dtype=torch.complex64)
    y = complex_randn(5, 3000, dtype=torch.complex64)
    forward, backward = nufft_type2(x, omega), nufft_type1(y, omega, (48, 52))
    for _ in range(9):
        assert torch.equal(nufft_type2(x, omega), forward)
        assert torch.equal(nufft_type1(y, omega, (48, 52)), backward)


def test_fake_kernels_take_sizes_beyond_32_bits():
    """More than 2^31 cells and samples, without their memory."""
    with torch.device("meta"):
        samples = torch.empty(4, 64, 1 << 24, dtype=torch.complex64)
        points = torch.empty(4, 1 << 24, 3, dtype=torch.float64)
        order = torch.empty(4, 1 << 24, dtype=torch.int64)
        offsets = torch.empty(4, (1 << 21) + 1, dtype=torch.int64)
        coefficients = torch.empty(8, 6, dtype=torch.float64)
    rest, ops = (points, order, offsets, coefficients), torch.ops.sagittal
    grid = ops.spread(samples, *rest, (1024, 1024, 1024), (128, 128, 128))
    assert grid.shape == (4, 64, 1024, 1024, 1024)
    assert ops.interp(grid, *rest, (128, 128, 128)).shape == samples.shape


def test_gridding_gives_no_gradient_to_points():
    plan = nufft_plan(frequencies(2, 30, 2), (17, 20), 1e-5)
    points, *rest = gridding_arguments(plan)
    points = points.clone().requires_grad_()
    with pytest.raises(NotImplementedError, match="no gradient to points"):
        torch.ops.sagittal.spread(
            complex_randn(2, 3, 30), points, *rest, plan.grid_shape, plan.tiles
        )


def test_a_plan_of_other_points_is_refused(native):
    if native.mode == "reference":
        pytest.skip("the reference needs no order")
    plan = nufft_plan(frequencies(1, 300, 2), (40, 40), 1e-3)
    points, order, offsets, coefficients = gridding_arguments(plan)
    samples, ops = complex_randn(1, 2, 300), torch.ops.sagittal
    assert plan.tiles[0] > 1
    for arguments, message in [
        ((points, order.flip(1), offsets, coefficients), "do not sort these points"),
        ((points, order + 300, offsets, coefficients), "do not sort these points"),
        ((points * math.nan, order, offsets, coefficients), "do not sort these points"),
        ((points, order, offsets + 1, coefficients), "rise from 0"),
        ((points, order, offsets[:, 1:], coefficients), "number of tiles"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            ops.spread(samples, *arguments, plan.grid_shape, plan.tiles)
    with pytest.raises(RuntimeError, match="even in number"):
        ops.spread(samples, points, order, offsets, coefficients, plan.grid_shape, (3, 2))


def on_gpu(*tensors):
    return [tensor.cuda() for tensor in tensors]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("coils", [1, 2, 5, 8, 9, 17])
@pytest.mark.parametrize(
    ("shape", "tol"),
    [((17, 20), 1e-5), ((90, 70), 1e-2), ((256, 250), 1e-4), ((9, 8, 30), 1e-4), ((64,) * 3, 1e-3)],
)
def test_cuda_follows_the_reference(dtype, coils, shape, tol):
    tol = tol if dtype == torch.complex64 else tol * 1e-3
    for count in (0, 1, 3000):
        plan = nufft_plan(frequencies(2, count, len(shape)), shape, tol)
        arguments, ops = on_gpu(*gridding_arguments(plan)), torch.ops.sagittal
        samples = complex_randn(2, coils, count, dtype=dtype).cuda()
        grid = complex_randn(2, coils, *plan.grid_shape, dtype=dtype).cuda()
        bound = 1e-5 if dtype == torch.complex64 else 1e-13
        found = ops.spread(samples, *arguments, plan.grid_shape, plan.tiles)
        wanted = reference.spread(samples, *arguments, plan.grid_shape, plan.tiles)
        assert float((found - wanted).norm()) <= bound * float(wanted.norm())
        again = ops.spread(samples, *arguments, plan.grid_shape, plan.tiles)
        assert torch.equal(found, again)
        found = ops.interp(grid, *arguments, plan.tiles)
        wanted = reference.interp(grid, *arguments, plan.tiles)
        assert float((found - wanted).norm()) <= bound * float(wanted.norm())
        assert torch.equal(found, ops.interp(grid, *arguments, plan.tiles))


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("frames", "coils", "shape", "count"),
    # More coils and frames than fit its workspace; one coil pair whose tiles alone do not.
    [(3, 300, (128, 130), 20_000), (1, 2, (128, 128, 128), 50_000)],
)
def test_cuda_takes_more_than_its_workspace(frames, coils, shape, count):
    omega = frequencies(frames, count, len(shape), dtype=torch.float32)
    x = complex_randn(frames, coils, *shape, dtype=torch.complex64)
    y = complex_randn(frames, coils, count, dtype=torch.complex64)
    forward = nufft_type2(x.cuda(), omega.cuda(), 1e-3).cpu()
    assert relative(forward, nufft_type2(x, omega, 1e-3)) < 1e-4
    backward = nufft_type1(y.cuda(), omega.cuda(), shape, 1e-3).cpu()
    assert relative(backward, nufft_type1(y, omega, shape, 1e-3)) < 1e-4


@pytest.mark.cuda
def test_cuda_refuses_a_plan_of_other_points():
    plan = nufft_plan(frequencies(1, 300, 2), (40, 40), 1e-3)
    points, order, offsets, coefficients = on_gpu(*gridding_arguments(plan))
    samples, ops = complex_randn(1, 2, 300).cuda(), torch.ops.sagittal
    for arguments, message in [
        ((points, order.flip(1), offsets, coefficients), "do not sort these points"),
        ((points, order + 300, offsets, coefficients), "do not sort these points"),
        ((points * math.nan, order, offsets, coefficients), "do not sort these points"),
        ((points, order, offsets + 1, coefficients), "rise from 0"),
        ((points, order, offsets[:, 1:], coefficients), "number of tiles"),
        ((points.cpu(), order, offsets, coefficients), "device of the other arguments"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            ops.spread(samples, *arguments, plan.grid_shape, plan.tiles)


@pytest.mark.cuda
def test_cuda_gradients():
    omega = (frequencies(4, 2) * 0.9).cuda().requires_grad_()
    x, y = (complex_randn(1, *shape).cuda().requires_grad_() for shape in [(3, 4), (4,)])
    assert torch.autograd.gradcheck(lambda a, w: nufft_type2(a, w, 1e-8), (x, omega))
    assert torch.autograd.gradcheck(lambda a, w: nufft_type1(a, w, (3, 4), 1e-8), (y, omega))
