"""The operators of the namespace ``sagittal``: every schema in one place.

A schema is defined here, its plain-torch reference (``CompositeExplicitAutograd``) and its fake
kernel are registered beside the typed wrapper that uses it, and compiled kernels, when there are
any, are registered by C++ under their device key, which takes precedence over the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

ABI_VERSION = 6
"""Raised whenever a schema below changes: compiled kernels of another number are not loaded."""

LIB = torch.library.Library("sagittal", "DEF")

# Gridding. points: grid units in [0, size); order: a permutation that visits points by tile;
# offsets: where each tile begins in `order`; coefficients: see gridding.KernelDesign; tiles: number
# of tiles along each axis, see gridding.NufftPlan.
LIB.define(
    "spread(Tensor samples, Tensor points, Tensor order, Tensor offsets, Tensor coefficients, "
    "int[] grid_shape, int[] tiles) -> Tensor"
)
LIB.define(
    "interp(Tensor grid, Tensor points, Tensor order, Tensor offsets, Tensor coefficients, "
    "int[] tiles) -> Tensor"
)

# The passes of the Toeplitz normal operator between the FFTs of torch.fft along the last axis.
# modulation: exp(-i pi n / N) of the axis that is turned to or from the end.
LIB.define("toeplitz_expand(Tensor image, Tensor maps, Tensor modulation) -> Tensor")
LIB.define("toeplitz_turn(Tensor x, Tensor modulation) -> Tensor")
LIB.define("toeplitz_unturn(Tensor x, Tensor modulation) -> Tensor")
LIB.define("toeplitz_filter(Tensor spectrum, Tensor kernel) -> Tensor")
LIB.define(
    "toeplitz_reduce(Tensor coil_images, Tensor maps, Tensor modulation, Tensor partial) -> Tensor"
)

# All of the operator, for lengths without a prime factor above 127. lam: (B or 1,).
LIB.define("toeplitz_normal(Tensor image, Tensor maps, Tensor kernel, Tensor lam) -> Tensor")

# One conjugate-gradient update on real vectors (batch, n).
LIB.define(
    "cg_step(Tensor x, Tensor r, Tensor p, Tensor q, Tensor rs, Tensor stop) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)

# Nearest codes and the sums of their rows. bias: (K,) or (N, K), dtype of the scores. Floating
# point results come first, as opcheck wants them: (scores, indices) and (sums, counts).
LIB.define("codebook_lookup(Tensor z, Tensor codebook, Tensor? bias, int k) -> (Tensor, Tensor)")
LIB.define("codebook_sums(Tensor z, Tensor indices, int size) -> (Tensor, Tensor)")

# Sparse coding. Encoders return values, indices (and row offsets). shift: subtracted from x before
# encoding; offsets: CSR row offsets, None for codes of a fixed width k; prefixes: ascending ends
# of nested groups of features, the last of them F.
LIB.define(
    "topk_encode(Tensor x, Tensor weight, Tensor bias, Tensor? shift, int k) -> (Tensor, Tensor)"
)
LIB.define(
    "batchtopk_encode(Tensor x, Tensor weight, Tensor bias, Tensor? shift, int k) "
    "-> (Tensor, Tensor, Tensor)"
)
LIB.define(
    "threshold_encode(Tensor x, Tensor weight, Tensor bias, Tensor? shift, Tensor threshold) "
    "-> (Tensor, Tensor, Tensor)"
)
LIB.define("topk_select(Tensor scores, int k) -> (Tensor, Tensor)")
LIB.define(
    "sparse_decode(Tensor indices, Tensor values, Tensor? offsets, Tensor weight, Tensor bias, "
    "int[] prefixes) -> Tensor"
)
LIB.define(
    "sparse_decode_backward(Tensor grad, Tensor indices, Tensor values, Tensor? offsets, "
    "Tensor weight, int[] prefixes) -> (Tensor, Tensor)"
)
LIB.define(
    "sparse_encode_backward(Tensor grad, Tensor indices, Tensor values, Tensor? offsets, "
    "Tensor x, Tensor? shift, int features) -> (Tensor, Tensor)"
)

# Answered by compiled kernels only; never call them unless some are loaded.
LIB.define("_abi_version() -> int")
LIB.define("_cpu_isa() -> int")
LIB.define("_native_call_count() -> int")


def register(name: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Register the reference and the fake kernel of one operator.

    Args:
        name: Operator name without the namespace.
        reference: Plain-torch function with the operator's schema; the specification.
        fake: Function with the same schema that returns empty tensors of the right shape.
    """
    from sagittal_core.ops import _native

    def checked(*args: Any) -> Any:
        _native.note_reference_call(name, args)
        return reference(*args)

    LIB.impl(name, checked, "CompositeExplicitAutograd")
    torch.library.register_fake(f"sagittal::{name}", fake, lib=LIB)
