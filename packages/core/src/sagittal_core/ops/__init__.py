"""Fused operators: non-uniform transforms, conjugate gradients, codebooks, sparse coding.

Every operator has a plain-torch reference, which is its specification, and may have compiled
kernels. :func:`backend_info` says which run.
"""

from __future__ import annotations

from sagittal_core.ops._native import (
    BackendInfo,
    NativeUnavailableError,
    backend_info,
    native_call_count,
)
from sagittal_core.ops.cg import cg_data_consistency, cg_solve
from sagittal_core.ops.codebook import codebook_lookup, codebook_sums
from sagittal_core.ops.codebook_update import CodebookState, codebook_ema_update, kmeans
from sagittal_core.ops.gridding import NufftPlan, nufft_plan
from sagittal_core.ops.nufft import nufft_type1, nufft_type2
from sagittal_core.ops.sparse import SparseCodes, sparse_decode, topk_encode, topk_select
from sagittal_core.ops.toeplitz import toeplitz_kernel, toeplitz_normal

__all__ = [
    "BackendInfo",
    "CodebookState",
    "NativeUnavailableError",
    "NufftPlan",
    "SparseCodes",
    "backend_info",
    "cg_data_consistency",
    "cg_solve",
    "codebook_ema_update",
    "codebook_lookup",
    "codebook_sums",
    "kmeans",
    "native_call_count",
    "nufft_plan",
    "nufft_type1",
    "nufft_type2",
    "sparse_decode",
    "toeplitz_kernel",
    "toeplitz_normal",
    "topk_encode",
    "topk_select",
]
