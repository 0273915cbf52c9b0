"""Inputs of the sparse operators' tests."""

import torch

DTYPES = [torch.float32, torch.float64]
BOUND = {torch.float32: 1e-5, torch.float64: 1e-13}


def problem(n=13, d=19, f=37, dtype=torch.float64):
    """x, W_e, b_e, W_d, b_d."""
    shapes = ((n, d), (f, d), (f,), (f, d), (d,))
    return tuple(torch.randn(shape, dtype=dtype) for shape in shapes)


def whole(n, d, f, dtype=torch.float64):
    """A problem in small integers: sums are exact in any order, and ties are everywhere."""
    return tuple(t.mul(1.5).round() for t in problem(n, d, f, dtype))


def same(found, wanted):
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
