import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_core.ops import (
    nufft_type1,
    nufft_type2,
    reference,
    toeplitz,
    toeplitz_kernel,
    toeplitz_normal,
)
from sagittal_core.ops.toeplitz import fits_one_operator


def problem(shape, batch=2, coils=3, count=60, dtype=torch.complex128):
    real = dtype.to_real()
    omega = (torch.rand(count, len(shape), dtype=real) * 2 - 1) * math.pi
    weights = torch.rand(count, dtype=real)
    image = torch.randn(batch, *shape, dtype=dtype)
    maps = torch.randn(batch, coils, *shape, dtype=dtype)
    return omega, weights, image, maps


def direct(image, maps, omega, weights):
    """Sum over coils of conj(S) A^H W A S x by direct sums."""
    samples = reference.nudft_type2(maps * image[:, None], omega) * weights
    return (maps.conj() * reference.nudft_type1(samples, omega, image.shape[1:])).sum(1)


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("shape", [(12, 15), (9, 9), (1, 4), (131, 3), (4, 5, 6)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.complex64, 1e-6), (torch.complex128, 1e-11)])
def test_equals_the_normal_operator(shape, dtype, bound):
    omega, weights, image, maps = problem(shape, dtype=dtype)
    found = toeplitz_normal(image, maps, toeplitz_kernel(omega, weights, shape), 0.3)
    wide = torch.complex128
    wanted = direct(image.to(wide), maps.to(wide), omega.double(), weights.double())
    assert relative(found, wanted + 0.3 * image) < bound


def test_equals_gridding_there_and_back():
    omega, weights, image, maps = problem((16, 16))
    samples = nufft_type2(maps * image[:, None], omega, 1e-9) * weights
    wanted = (maps.conj() * nufft_type1(samples, omega, (16, 16), 1e-9)).sum(1)
    found = toeplitz_normal(image, maps, toeplitz_kernel(omega, weights, (16, 16)))
    assert relative(found, wanted) < 1e-8


@pytest.mark.parametrize("shape", [(12, 15), (4, 5, 6)])
def test_is_self_adjoint(shape):
    omega, weights, x, maps = problem(shape)
    y = torch.randn_like(x)
    kernel = toeplitz_kernel(omega, weights, shape)
    assert not kernel.is_complex()
    left = (toeplitz_normal(x, maps, kernel).conj() * y).sum()
    right = (x.conj() * toeplitz_normal(y, maps, kernel)).sum()
    assert abs(left - right) <= 1e-12 * abs(left)


def test_a_kernel_of_a_larger_shape_is_exact_for_padded_images():
    omega, weights, image, maps = problem((11, 13))
    wanted = toeplitz_normal(image, maps, toeplitz_kernel(omega, weights, (11, 13)))
    padded = [torch.nn.functional.pad(t, (0, 1, 0, 1)) for t in (image, maps)]
    found = toeplitz_normal(*padded, toeplitz_kernel(omega, weights, (12, 14)))
    assert relative(found[:, :11, :13], wanted) < 1e-11


def test_kernels_of_groups_add_up():
    omega, weights, _, _ = problem((10, 11))
    groups = torch.stack([weights * (torch.arange(60) % 3 == g) for g in range(3)])
    kernels = toeplitz_kernel(omega, groups, (10, 11))
    assert kernels.shape == (3, 4, 10, 11)
    torch.testing.assert_close(kernels.sum(0), toeplitz_kernel(omega, weights, (10, 11)))


def test_frames_and_shared_maps():
    omega, _, image, maps = problem((8, 9))
    frames = torch.stack([omega, omega.flip(1) * 0.5])
    weights = torch.rand(2, 60, dtype=torch.float64)
    kernel = toeplitz_kernel(frames, weights, (8, 9))
    found = toeplitz_normal(image, maps[:1], kernel, torch.tensor([0.0, 2.0]).double())
    for t, lam in enumerate((0.0, 2.0)):
        wanted = direct(image[t : t + 1], maps[:1], frames[t], weights[t]) + lam * image[t]
        assert relative(found[t : t + 1], wanted) < 1e-11


def test_zero_weights_and_no_samples_give_zero():
    omega, weights, image, maps = problem((6, 7))
    for w, o in ((weights * 0, omega), (weights[:0], omega[:0])):
        assert not toeplitz_normal(image, maps, toeplitz_kernel(o, w, (6, 7))).any()


@pytest.mark.parametrize(("shape", "passes"), [((3, 4), False), ((3, 4), True), ((2, 3, 2), False)])
def test_gradients(shape, passes, monkeypatch):
    if passes:
        monkeypatch.setattr(toeplitz, "fits_one_operator", lambda shape: False)
    omega, weights, image, maps = problem(shape, coils=2, count=9)
    kernel = toeplitz_kernel(omega, weights, shape)
    lam = torch.tensor([0.1, 0.2], dtype=torch.float64)
    inputs = (image, maps, kernel, lam)
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(toeplitz_normal, inputs)
    assert torch.autograd.gradcheck(
        toeplitz_normal, (image, maps.detach()[:1].requires_grad_(), kernel, lam)
    )


def test_gradients_of_the_kernel():
    omega, weights, _, _ = problem((3, 4), count=5)
    inputs = (omega * 0.9).requires_grad_(), weights.requires_grad_()
    assert torch.autograd.gradcheck(lambda o, w: toeplitz_kernel(o, w, (3, 4)), inputs)


def passes(shape, dtype, batch=2, coils=3):
    """Arguments of every pass of the normal operator, by its name."""
    real = dtype.to_real()
    image = torch.randn(batch, *shape, dtype=dtype)
    maps = torch.randn(batch, coils, *shape, dtype=dtype)
    turned = torch.randn(batch, coils, 2, *shape[1:], shape[0], dtype=dtype)
    first, second = (torch.randn(n, dtype=dtype) for n in shape[:2])
    rest = math.prod(shape) // shape[1]
    return {
        "toeplitz_expand": (image, maps, first),
        "toeplitz_turn": (torch.randn(batch, shape[1], rest, dtype=dtype), second),
        "toeplitz_unturn": (torch.randn(batch, 2, rest, shape[1], dtype=dtype), second),
        "toeplitz_filter": (maps, torch.rand(1, *shape, dtype=real)),
        "toeplitz_reduce": (turned, maps, first, image),
    }


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(50, 61), (32, 64), (1, 70), (33, 1), (7, 40, 9)])
def test_kernels_follow_the_reference(dtype, shape):
    bound = 1e-6 if dtype == torch.complex64 else 1e-14
    for batch, coils in ((2, 3), (1, 1)):
        for name, arguments in passes(shape, dtype, batch, coils).items():
            found = getattr(torch.ops.sagittal, name)(*arguments)
            wanted = getattr(reference, name)(*arguments)
            assert found.shape == wanted.shape
            assert relative(found, wanted) < bound, name


@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 2)])
def test_opcheck(shape):
    for name, arguments in passes(shape, torch.complex128).items():
        for tensor in arguments:
            # Modulations, the only vectors, get no gradient.
            tensor.requires_grad_(tensor.dim() > 1)
        torch.library.opcheck(getattr(torch.ops.sagittal, name), arguments)


def whole(shape, dtype, batch=2, coils=3, frames=1):
    """Arguments of the operator that does all of it."""
    real = dtype.to_real()
    image = torch.randn(batch, *shape, dtype=dtype)
    maps = torch.randn(frames, coils, *shape, dtype=dtype)
    kernel = torch.rand(frames, 2 ** len(shape), *shape, dtype=real)
    return image, maps, kernel, torch.rand(frames, dtype=real)


lengths = st.one_of(
    st.tuples(*(st.integers(0, most) for most in (5, 3, 2, 1))).map(
        lambda powers: math.prod(p**k for p, k in zip((2, 3, 5, 7), powers, strict=True))
    ),
    st.sampled_from([11, 13, 22, 37, 55, 113, 121, 127, 143, 254]),
)


@settings(max_examples=60)
@given(
    shape=st.lists(lengths, min_size=2, max_size=3).filter(lambda n: math.prod(n) <= 1 << 14),
    batch=st.integers(1, 3),
    coils=st.integers(1, 3),
    shared=st.booleans(),
)
def test_one_operator_follows_the_reference(shape, batch, coils, shared):
    assert fits_one_operator(tuple(shape))
    for dtype, bound in ((torch.complex64, 1e-6), (torch.complex128, 1e-14)):
        arguments = whole(shape, dtype, batch, coils, 1 if shared else batch)
        found = torch.ops.sagittal.toeplitz_normal(*arguments)
        assert relative(found, reference.toeplitz_normal(*arguments)) < bound


@pytest.mark.parametrize("shape", [(16, 15), (49, 40), (6, 18, 5)])
def test_one_operator_equals_the_passes(shape):
    image, maps, kernel, lam = whole(shape, torch.complex128)
    found = toeplitz_normal(image, maps, kernel, lam)
    assert relative(found, toeplitz._by_passes(image, maps, kernel, lam)) < 1e-14


@pytest.mark.parametrize(
    ("shape", "one"),
    [
        ((32, 127), True),
        ((1, 22), True),
        ((131, 8), False),
        ((4, 5, 6), True),
        ((4, 137, 1), False),
    ],
)
def test_which_way_is_taken(shape, one, monkeypatch):
    taken = []
    monkeypatch.setattr(toeplitz, "_by_passes", lambda image, *rest: taken.append(1) or image)
    image, maps = torch.ones(1, *shape) + 0j, torch.ones(1, 1, *shape) + 0j
    toeplitz_normal(image, maps, torch.ones(2 ** len(shape), *shape))
    assert fits_one_operator(shape) == one != bool(taken)


@pytest.mark.parametrize("shape", [(48, 35), (12, 10, 21)])
def test_one_operator_is_self_adjoint_to_rounding(shape):
    x, maps, kernel, lam = whole(shape, torch.complex128)
    y = torch.randn_like(x)
    left = (toeplitz_normal(x, maps, kernel, lam).conj() * y).sum()
    right = (x.conj() * toeplitz_normal(y, maps, kernel, lam)).sum()
    assert abs(left - right) <= 1e-12 * abs(left)


@pytest.mark.parametrize(("shape", "frames"), [((6, 5), 1), ((6, 5), 2), ((3, 2, 4), 1)])
def test_opcheck_of_one_operator(shape, frames):
    arguments = whole(shape, torch.complex128, frames=frames)
    for tensor in arguments:
        tensor.requires_grad_()
    torch.library.opcheck(torch.ops.sagittal.toeplitz_normal, arguments)


@pytest.mark.parametrize("passes", [False, True])
def test_second_gradients(passes, monkeypatch):
    shape = (3, 4)
    if passes:
        monkeypatch.setattr(toeplitz, "fits_one_operator", lambda shape: False)
    arguments = whole(shape, torch.complex128, batch=1, coils=1)
    for tensor in arguments:
        tensor.requires_grad_()
    assert torch.autograd.gradgradcheck(toeplitz_normal, arguments)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(40, 36), (12, 10, 21)])
def test_one_operator_gives_the_same_bits_every_time(threads, shape, dtype):
    arguments = whole(shape, dtype, coils=5)
    threads(1)
    wanted = torch.ops.sagittal.toeplitz_normal(*arguments)
    threads(2)
    for _ in range(10):
        assert torch.equal(torch.ops.sagittal.toeplitz_normal(*arguments), wanted)


def test_plans_are_made_on_any_thread():
    # Lengths that no other test uses, so that the tables are made here.
    cases = [whole((n, 3), torch.complex64) for n in (96, 98, 100, 104, 108, 110, 112) * 3]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda case: torch.ops.sagittal.toeplitz_normal(*case), cases))
    for one, case in zip(found, cases, strict=True):
        assert relative(one, reference.toeplitz_normal(*case)) < 1e-6


ISA_SCRIPT = """
import sys, torch
from sagittal_core.ops import backend_info
arguments = torch.load(sys.argv[1])
found = [torch.ops.sagittal.toeplitz_normal(*a) for a in arguments]
torch.save((backend_info().isa, found), sys.argv[2])
"""


@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_instruction_sets_agree(native, isa, tmp_path):
    if native.mode == "reference":
        pytest.skip("the reference has no instruction sets")
    if native.isa == "portable":
        pytest.skip("this machine has one instruction set")
    dtypes = torch.complex64, torch.complex128
    shapes = (40, 63), (9, 13, 14)
    arguments = [whole(shape, dtype) for shape in shapes for dtype in dtypes]
    paths = [str(tmp_path / name) for name in ("in", "out")]
    torch.save(arguments, paths[0])
    environment = {**os.environ, "SAGITTAL_ISA": isa, "SAGITTAL_OPS": native.mode}
    subprocess.run([sys.executable, "-c", ISA_SCRIPT, *paths], env=environment, check=True)
    ran, found = torch.load(paths[1])
    assert ran == isa
    for one, other, bound in zip(found, arguments, (1e-6, 1e-14) * 2, strict=True):
        assert relative(one, torch.ops.sagittal.toeplitz_normal(*other)) < bound


def test_one_operator_refuses_what_it_cannot_do(native):
    image, maps, kernel, lam = whole((6, 7), torch.complex64)
    op = torch.ops.sagittal.toeplitz_normal
    if native.mode == "reference":
        pytest.skip("the reference takes any length")
    with pytest.raises(RuntimeError, match="no prime factor above 127"):
        op(*whole((6, 131), torch.complex64))
    with pytest.raises(RuntimeError, match="dtype of image"):
        op(image, maps, kernel.double(), lam)
    with pytest.raises(RuntimeError, match="do not fit the image"):
        op(image, maps[..., :1], kernel, lam)
    with pytest.raises(RuntimeError, match="at least one coil"):
        op(image, maps[:, :0], kernel, lam)


@pytest.mark.parametrize("shape", [(70, 80), (22, 80), (131, 12)])
def test_same_bits_on_one_and_two_threads(threads, shape):
    omega, weights, image, maps = problem(shape, dtype=torch.complex64)
    kernel = toeplitz_kernel(omega, weights, shape)
    results = []
    for count in (1, 2):
        threads(count)
        results.append(toeplitz_normal(image, maps, kernel, 0.1))
    assert torch.equal(*results)


def test_no_coils_and_no_batch():
    omega, weights, image, maps = problem((6, 7))
    kernel = toeplitz_kernel(omega, weights, (6, 7))
    assert torch.equal(toeplitz_normal(image, maps[:, :0], kernel, 0.5), 0.5 * image)
    assert toeplitz_normal(image[:0], maps[:0], kernel).shape == (0, 6, 7)


def test_nan_stays_in_its_image():
    omega, weights, image, maps = problem((6, 7))
    kernel = toeplitz_kernel(omega, weights, (6, 7))
    wanted = toeplitz_normal(image, maps, kernel)[1]
    image[0, 2, 3] = math.nan
    found = toeplitz_normal(image, maps, kernel)
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1], wanted, rtol=1e-13, atol=1e-13)


def test_non_contiguous_and_conjugated_views(native):
    omega, weights, image, maps = problem((6, 7))
    kernel = toeplitz_kernel(omega, weights, (6, 7))
    wanted = toeplitz_normal(image, maps, kernel)
    found = toeplitz_normal(
        image.transpose(1, 2).contiguous().transpose(1, 2),
        maps.conj().resolve_conj().conj(),
        kernel.transpose(1, 2).contiguous().transpose(1, 2),
    )
    # The kernels copy such views first; the reference's transforms run on them, in another order.
    bound = 1e-13 if native.mode == "reference" else 0.0
    torch.testing.assert_close(found, wanted, rtol=bound, atol=bound)


def test_forward_mode_is_refused_not_zero():
    omega, weights, image, maps = problem((5, 6))
    kernel = toeplitz_kernel(omega, weights, (5, 6))
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: toeplitz_normal(x, maps, kernel), (image,), (image,))


def test_no_frames_give_no_kernels():
    omega, weights, _, _ = problem((5, 6))
    assert toeplitz_kernel(omega, weights[None][:0], (5, 6)).shape == (0, 4, 5, 6)
    assert toeplitz_kernel(omega[None][:0], weights, (5, 6)).shape == (0, 4, 5, 6)


def test_many_coils_go_in_groups():
    # A length with a large factor: others don't go through the passes.
    omega, weights, image, maps = problem((131, 20), batch=1, coils=60, dtype=torch.complex64)
    kernel = toeplitz_kernel(omega, weights, (131, 20))
    assert image.numel() * 8 * 4 * 60 > toeplitz._SPECTRUM_BYTES  # more than one group
    parts = (toeplitz_normal(image, part, kernel) for part in maps.split(7, 1))
    assert relative(toeplitz_normal(image, maps, kernel), sum(parts)) < 1e-6


def test_bad_arguments_say_what_is_wrong():
    omega, weights, image, maps = problem((6, 7))
    kernel = toeplitz_kernel(omega, weights, (6, 7))
    with pytest.raises(ValueError, match="weights must be >= 0 and finite"):
        toeplitz_kernel(omega, weights * math.inf, (5, 6))
    with pytest.raises(TypeError, match="lam must be real"):
        toeplitz_normal(image, maps, kernel, torch.tensor(1j))
    with pytest.raises(ValueError, match="maps on meta"):
        toeplitz_normal(image, maps.to("meta"), kernel)
    with pytest.raises(ValueError, match="weights must be >= 0"):
        toeplitz_kernel(omega, -weights, (6, 7))
    with pytest.raises(ValueError, match="do not fit trajectory"):
        toeplitz_kernel(omega, weights[1:], (6, 7))
    with pytest.raises(TypeError, match=r"weights must be torch\.float64"):
        toeplitz_kernel(omega, weights.float(), (6, 7))
    with pytest.raises(ValueError, match="maps must be"):
        toeplitz_normal(image, maps[:, :, 1:], kernel)
    with pytest.raises(ValueError, match="kernel must be"):
        toeplitz_normal(image, maps, kernel[:3])
    with pytest.raises(ValueError, match=r"lam must be a scalar or \(2,\)"):
        toeplitz_normal(image, maps, kernel, torch.ones(3))
    with pytest.raises(TypeError, match=r"kernel must be torch\.float64"):
        toeplitz_normal(image, maps, kernel.float())


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(50, 61), (32, 64), (1, 70), (33, 1), (7, 40, 9), (256, 256)])
def test_cuda_follows_the_reference(dtype, shape):
    bound = 1e-6 if dtype == torch.complex64 else 1e-14
    for batch, coils in ((2, 3), (1, 1), (2, 17), (0, 2)):
        for name, arguments in passes(shape, dtype, batch, coils).items():
            on_gpu = [tensor.cuda() for tensor in arguments]
            found = getattr(torch.ops.sagittal, name)(*on_gpu)
            wanted = getattr(reference, name)(*on_gpu)
            assert found.shape == wanted.shape
            assert float((found - wanted).norm()) <= bound * float(wanted.norm()), name
            assert torch.equal(found, getattr(torch.ops.sagittal, name)(*on_gpu))


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(12, 15), (4, 5, 6)])
def test_cuda_equals_the_cpu(shape):
    omega, weights, image, maps = problem(shape, dtype=torch.complex64)
    kernel = toeplitz_kernel(omega, weights, shape)
    found = toeplitz_normal(image.cuda(), maps.cuda(), kernel.cuda(), 0.3)
    assert relative(found.cpu(), toeplitz_normal(image, maps, kernel, 0.3)) < 1e-6
