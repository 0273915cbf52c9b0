import math

import pytest
import torch

from sagittal_core.ops import (
    cg_data_consistency,
    cg_solve,
    reference,
    toeplitz_kernel,
    toeplitz_normal,
)


def system(batch=3, n=8, dtype=torch.complex128):
    factor = torch.randn(batch, n, n, dtype=dtype)
    return factor.mH @ factor / n


def multiply(matrix):
    return lambda x: (matrix @ x[..., None])[..., 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("lam", [0.5, torch.tensor(0.5), torch.tensor([0.2, 0.5, 1.0])])
def test_solves(dtype, lam):
    matrix, rhs = system(dtype=dtype), torch.randn(3, 8, dtype=dtype)
    found = cg_solve(multiply(matrix), rhs, lam, max_iter=60, tol=1e-7)
    weight = torch.as_tensor(lam).to(dtype).reshape(-1, 1, 1)
    wanted = torch.linalg.solve(matrix + weight * torch.eye(8, dtype=dtype), rhs)
    bound = 1e-4 if dtype in (torch.float32, torch.complex64) else 1e-6
    assert float((found - wanted).norm() / wanted.norm()) < bound


def test_gradients_match_the_direct_solution():
    matrix, rhs = system(), torch.randn(3, 8, dtype=torch.complex128, requires_grad=True)
    lam = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    solve = lambda b, w: cg_solve(multiply(matrix), b, w, max_iter=100, tol=1e-13)  # noqa: E731
    assert torch.autograd.gradcheck(solve, (rhs, lam))
    assert torch.autograd.gradcheck(solve, (rhs, lam.detach()[:1].requires_grad_()))
    assert torch.autograd.gradgradcheck(solve, (rhs, lam))


def test_a_converged_element_does_not_move():
    matrix, rhs = system(), torch.randn(3, 8, dtype=torch.complex128)
    matrix[0] = torch.eye(8)  # solved by one iteration
    short = cg_solve(multiply(matrix), rhs, 0.0, max_iter=1)
    long = cg_solve(multiply(matrix), rhs, 0.0, max_iter=20)
    assert torch.equal(short[0], long[0])
    assert not torch.equal(short[1], long[1])


def test_start_at_the_solution_returns_it():
    matrix, start = system(), torch.randn(3, 8, dtype=torch.complex128)
    rhs = multiply(matrix)(start)
    found = cg_solve(multiply(matrix), rhs, 0.0, start)
    assert torch.equal(found, start)
    assert found.data_ptr() != start.data_ptr()


def test_zero_and_nan_right_hand_sides():
    matrix, rhs = system(), torch.randn(3, 8, dtype=torch.complex128)
    rhs[0] = 0
    rhs[1, 2] = math.nan
    found = cg_solve(multiply(matrix), rhs, 0.1)
    assert not found[0].any()
    assert found[1].isnan().all()
    assert torch.equal(found[2:], cg_solve(multiply(matrix[2:]), rhs[2:], 0.1))
    assert cg_solve(multiply(matrix[:0]), rhs[:0], 0.1).shape == (0, 8)


def test_an_operator_without_curvature_keeps_the_start():
    start = torch.ones(2, 4, dtype=torch.float64)
    assert torch.equal(cg_solve(lambda x: 0 * x, start * 2, 0.0, start), start)


def test_data_consistency():
    omega = (torch.rand(40, 2, dtype=torch.float64) * 2 - 1) * math.pi
    kernel = toeplitz_kernel(omega, torch.rand(40, dtype=torch.float64), (2, 3))
    maps = torch.randn(2, 2, 2, 3, dtype=torch.complex128)
    z, b = (torch.randn(2, 2, 3, dtype=torch.complex128, requires_grad=True) for _ in range(2))
    lam = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    solve = lambda z, b, lam: cg_data_consistency(  # noqa: E731
        z, b, maps, kernel, lam, max_iter=30, tol=1e-13
    )
    x = solve(z, b, lam)
    torch.testing.assert_close(toeplitz_normal(x, maps, kernel, lam), b + lam * z)
    assert torch.autograd.gradcheck(solve, (z, b, lam))


@pytest.mark.parametrize("shared", [False, True])
def test_data_consistency_has_gradients_of_maps_and_kernel(shared):
    omega = (torch.rand(30, 2, dtype=torch.float64) * 2 - 1) * math.pi
    kernel = toeplitz_kernel(omega, torch.rand(30, dtype=torch.float64), (2, 3))
    maps = torch.randn(1 if shared else 2, 2, 2, 3, dtype=torch.complex128)
    z, b = (torch.randn(2, 2, 3, dtype=torch.complex128, requires_grad=True) for _ in range(2))
    lam = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    inputs = (z, b, maps.requires_grad_(), kernel.requires_grad_(), lam)

    def solve(*inputs):
        return cg_data_consistency(*inputs, max_iter=30, tol=1e-13)

    def dense(z, b, maps, kernel, lam):
        """The same solution from the operator's matrix, differentiated through the solve."""
        unit = torch.eye(6, dtype=maps.dtype).reshape(6, 2, 3)
        columns = [
            toeplitz_normal(unit, maps[t % len(maps)][None], kernel, lam[t]).reshape(6, 6).mT
            for t in range(2)
        ]
        return torch.linalg.solve(torch.stack(columns), (b + lam[:, None, None] * z).reshape(2, 6))

    assert torch.autograd.gradcheck(solve, inputs)
    direction = torch.randn(2, 2, 3, dtype=maps.dtype)
    found = torch.autograd.grad(solve(*inputs), inputs, direction)
    wanted = torch.autograd.grad(dense(*inputs).reshape(2, 2, 3), inputs, direction)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-10)
    if shared:
        assert torch.autograd.gradgradcheck(solve, inputs, fast_mode=True)


def step_arguments(dtype=torch.float64, n=5000):
    x, r, p, q = (torch.randn(4, n, dtype=dtype) for _ in range(4))
    q = p * (1 + torch.rand_like(p))
    rs, stop = (r * r).sum(1), torch.zeros(4, dtype=dtype)
    stop[1] = rs[1]  # converged
    q[2] = -p[2]  # no curvature
    return x, r, p, q, rs, stop


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_step_follows_the_reference(dtype, bound, threads):
    arguments = step_arguments(dtype)
    threads(1)
    one = torch.ops.sagittal.cg_step(*arguments)
    threads(2)
    for a, b, c in zip(
        one, torch.ops.sagittal.cg_step(*arguments), reference.cg_step(*arguments), strict=True
    ):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=bound, atol=bound)
        assert torch.equal(a[1:3], c[1:3])


@pytest.mark.cuda
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("n", [0, 1, 4999, 5000, 3_000_001])
def test_cuda_step_follows_the_reference(dtype, bound, n):
    arguments = [t.cuda() for t in step_arguments(dtype, n)]
    found = torch.ops.sagittal.cg_step(*arguments)
    again = torch.ops.sagittal.cg_step(*arguments)
    for a, b, c in zip(found, again, reference.cg_step(*arguments), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=bound, atol=bound)
        assert torch.equal(a[1:3], c[1:3])


def test_opcheck():
    torch.library.opcheck(torch.ops.sagittal.cg_step, step_arguments())


def test_bad_arguments_say_what_is_wrong():
    rhs = torch.ones(2, 3)
    identity = lambda x: x  # noqa: E731
    with pytest.raises(ValueError, match="lam must be >= 0"):
        cg_solve(identity, rhs, -1.0)
    with pytest.raises(ValueError, match="lam must be a scalar or"):
        cg_solve(identity, rhs, torch.ones(3))
    with pytest.raises(ValueError, match="differ in shape"):
        cg_solve(identity, rhs, 0.1, rhs[:1])
    with pytest.raises(TypeError, match="x0 is"):
        cg_solve(identity, rhs, 0.1, rhs.double())
    with pytest.raises(TypeError, match=r"single or double, got torch\.bfloat16"):
        cg_solve(lambda v: v, torch.ones(2, 3, dtype=torch.bfloat16))
    with pytest.raises(TypeError, match="single or double"):
        cg_solve(identity, rhs.int(), 0.1)
    with pytest.raises(ValueError, match="max_iter"):
        cg_solve(identity, rhs, 0.1, max_iter=0)
