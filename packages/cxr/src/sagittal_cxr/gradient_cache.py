"""Large contrastive batches in the memory of a small one: chunks, encoded again for gradients.

A contrastive loss needs the rows of the whole batch at once, but not the activations that led to
them. GradCache (Gao et al., arXiv 2101.06983) encodes without activations, takes the loss of all
rows, differentiates it with respect to the rows, and encodes chunk by chunk again to carry each
row's gradient into the weights. Activation checkpoints around each chunk are the same computation,
written so that one ``backward()`` does it: gradient scaling, DDP's one exchange of gradients and
``accumulate_grad_batches`` work as ever. Peak memory is that of one chunk, time 4/3 of the plain
step.

- The gradient equals the plain batch's. Dropout draws the same values again in the second pass: the
  random state is kept with each chunk; draws differ from those of an unchunked batch only in order.
- Batch normalisation over the batch would be one over the chunk, and its statistics counted twice:
  refused by the module, use ``batch_norm: frozen``.
- ``trainer.accumulate_grad_batches`` is something else: each of its batches has its own negatives,
  and the gradient is the mean of their losses' gradients. For more negatives use a chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(encode: Callable[..., Tensor], chunk: int | None, *inputs: Tensor) -> Tensor:
    """Rows of a batch, encoded ``chunk`` inputs at a time.

    Args:
        encode: Maps inputs (n, ...) to rows (n, D), each input for itself.
        chunk: Inputs at a time; None: all at once.
        *inputs: (B, ...) each, B at least 1.

    Returns:
        (B, D), in order; with gradients on, its backward pass encodes each chunk again.
    """
    if chunk is None or len(inputs[0]) <= chunk:
        return encode(*inputs)
    parts = zip(*(value.split(chunk) for value in inputs), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([encode(*part) for part in parts])
    rows = []
    for part in parts:
        row: Tensor = checkpoint(encode, *part, use_reentrant=False)
        rows.append(row)
    return torch.cat(rows)
