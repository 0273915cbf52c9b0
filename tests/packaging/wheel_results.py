"""Prints a digest of what the installed kernels compute.

One wheel serves many releases of Python and torch. Install it in an environment of each and run
this there: the lines must end in the same digest. Inputs come from NumPy's generator, whose stream
does not depend on either.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import torch

os.environ |= {"SAGITTAL_OPS": "aot", "SAGITTAL_REQUIRE_NATIVE": "1", "SAGITTAL_ISA": "avx2"}
sys.path.insert(0, str(Path(__file__).parents[2] / "packages" / "core" / "src"))

from sagittal_core.ops import _native
from sagittal_core.ops.codebook import codebook_lookup
from sagittal_core.ops.nufft import nufft_type1, nufft_type2
from sagittal_core.ops.sparse import sparse_decode, topk_encode
from sagittal_core.ops.toeplitz import toeplitz_normal


def results() -> list[torch.Tensor]:
    """One forward pass of each family, and the gradient of the sparse one."""
    random = np.random.default_rng(0)

    def real(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal(shape, dtype=np.float32))

    def cplx(*shape: int) -> torch.Tensor:
        return torch.complex(real(*shape), real(*shape))

    weight, bias = real(200, 32).requires_grad_(), real(32)
    codes = topk_encode(real(64, 32), weight, real(200), 8, b_d=bias)
    decoded = sparse_decode(codes.indices, codes.values, weight, bias)
    (gradient,) = torch.autograd.grad(decoded.square().sum(), weight)
    omega = (real(500, 2) / 2).clamp(-3, 3)
    shape = (24, 20)
    return [
        *codebook_lookup(real(100, 16), real(300, 16))[:2],
        codes.indices,
        codes.values.detach(),
        decoded.detach(),
        gradient,
        nufft_type2(cplx(4, *shape), omega, 1e-4),
        nufft_type1(cplx(4, 500), omega, shape, 1e-4),
        toeplitz_normal(cplx(1, *shape), cplx(1, 4, *shape), real(4, *shape)),
    ]


if __name__ == "__main__":
    torch.set_num_threads(1)
    digest = hashlib.sha256()
    for tensor in results():
        digest.update(tensor.contiguous().numpy().tobytes())
    print(
        f"Python {sys.version.split()[0]}, torch {torch.__version__},", _native.load().mode, end=" "
    )
    print(digest.hexdigest()[:16])
