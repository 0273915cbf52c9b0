"""Codebooks that follow their data: k-means and moving averages, on one process or many."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sagittal_core.ops.codebook import codebook_lookup, codebook_sums
from sagittal_core.ops.reference_codebook import check_finite, scores_dtype
from sagittal_core.seeds import counter_generator


class CodebookState(NamedTuple):
    """A codebook that is learned by moving averages.

    Attributes:
        codebook: (K, D) float32 or float64.
        counts: (K,) moving average of the number of rows that chose each code.
        sums: (K, D) moving average of the sum of these rows.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor

    @classmethod
    def start(cls, codebook: Tensor) -> CodebookState:
        """The state in which every code (K, D) stands for one row, itself."""
        return cls(codebook, codebook.new_ones(len(codebook)), codebook.clone())


@torch.no_grad()
def codebook_ema_update(
    state: CodebookState,
    z: Tensor,  # (M, D)
    indices: Tensor,  # (M,)
    *,
    decay: float = 0.99,
    epsilon: float = 1e-5,
    restart_below: float = 0.0,
    seed: int = 0,
    group: dist.ProcessGroup | None = None,
) -> CodebookState:
    r"""One step of a codebook's moving averages (van den Oord et al., 2017, appendix A.1).

    .. math:: N_j \leftarrow \gamma N_j + (1-\gamma) n_j,\quad
              m_j \leftarrow \gamma m_j + (1-\gamma) \textstyle\sum_{i_n=j} z_n,\quad
              e_j = m_j / \tilde N_j

    with Laplace smoothed counts :math:`\tilde N_j = (N_j + \epsilon)\,N / (N + K\epsilon)`,
    :math:`N = \sum_j N_j` (Razavi et al., 2019). Where torch.distributed is initialised, rows of
    all ranks count, and all ranks get the same state.

    Args:
        state: Codebook, counts and sums; see :meth:`CodebookState.start`.
        z: (M, D) rows, any dtype of :func:`codebook_lookup`; M may differ between ranks.
        indices: (M,) int64, the code that each row chose.
        decay: gamma in [0, 1].
        epsilon: Smoothing, > 0.
        restart_below: A code whose count N_j falls below it is replaced by a random row of this
            batch, with this count (Dhariwal et al., 2020). If the batch has fewer rows than there
            are such codes, the rest wait. 0 never restarts.
        seed: Of the choice of rows; different at every step, equal on all ranks: for example
            ``counter_seed(run_seed, "restart", step)``.
        group: Process group, the default one if None.

    Returns:
        The next state, new tensors without gradient.

    Raises:
        TypeError: The state's dtypes differ or are not float32 or float64; as
            :func:`codebook_sums`.
        ValueError: Shapes do not fit, or an option is out of range; as :func:`codebook_sums`.
        RuntimeError: An index is out of range.
    """
    _check_state(state, z)
    if not (0 <= decay <= 1 and epsilon > 0 and restart_below >= 0):
        raise ValueError(
            "decay must be in [0, 1], epsilon > 0 and restart_below >= 0, got "
            f"{decay}, {epsilon}, {restart_below}"
        )
    dtype = state.codebook.dtype
    found, rows = codebook_sums(z, indices, len(state.codebook))
    counts = torch.lerp(_all_reduce(found, group).to(dtype), state.counts, decay)
    sums = torch.lerp(_all_reduce(rows, group).to(dtype), state.sums, decay)
    total = counts.sum()
    smoothed = (counts + epsilon) * (total / (total + len(counts) * epsilon))
    # A total of zero (decay 0 and no rows) leaves nothing to average.
    codebook = torch.where(total > 0, sums / smoothed[:, None], state.codebook)
    if restart_below > 0:
        dead = (counts < restart_below).nonzero()[:, 0]
        lengths = _lengths(z, group)
        generator = counter_generator(seed, "codebook restart")
        numbers = torch.randperm(sum(lengths), generator=generator)[: len(dead)]
        dead, rows = dead[: len(numbers)], _rows(z, numbers, lengths, dtype, group)
        codebook[dead] = rows
        counts[dead] = restart_below
        sums[dead] = rows * restart_below
    return CodebookState(codebook, counts, sums)


@torch.no_grad()
def kmeans(
    z: Tensor,  # (M, D)
    size: int,
    *,
    iterations: int = 10,
    seed: int = 0,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Codebook of cluster centres: k-means++ seeds, then Lloyd's iterations.

    Seeds follow Arthur and Vassilvitskii (2007): rows drawn with probability proportional to the
    squared distance from the seeds so far, K passes over ``z``. Where torch.distributed is
    initialised, the rows of all ranks are clustered together and all ranks get the same codebook.

    Args:
        z: (M, D) rows, any dtype of :func:`codebook_lookup`, finite; M may differ between ranks.
        size: Number of codes K, at most the number of distinct rows.
        iterations: Most Lloyd iterations; stops earlier when nothing moves. A cluster that lost
            its rows stays where it is.
        seed: Of the draws, equal on all ranks.
        group: Process group, the default one if None.

    Returns:
        (K, D), float64 if ``z`` is, otherwise float32.

    Raises:
        TypeError: ``z`` has another dtype.
        ValueError: ``z`` is not a matrix, ``iterations`` is negative, ``size`` < 1, or ``z`` has
            fewer distinct rows than ``size``.
        RuntimeError: ``z`` holds NaN or infinity.
    """
    if z.dim() != 2 or not z.is_floating_point():
        raise ValueError(f"z must be a floating-point matrix, got {z.dtype} {tuple(z.shape)}")
    if size < 1 or iterations < 0:
        raise ValueError(f"size must be >= 1 and iterations >= 0, got {size} and {iterations}")
    check_finite("z", z)
    codebook = _seeds(z, size, seed, group)
    for _ in range(iterations):
        counts, sums = codebook_sums(z, codebook_lookup(z, codebook)[0], size)
        counts, sums = _all_reduce(counts, group), _all_reduce(sums, group)
        means = torch.where(counts[:, None] > 0, sums / counts[:, None], codebook)
        if torch.equal(means, codebook):
            break
        codebook = means
    return codebook


def _seeds(z: Tensor, size: int, seed: int, group: dist.ProcessGroup | None) -> Tensor:
    """k-means++ seeds (K, D)."""
    generator = counter_generator(seed, "k-means++")
    draws = torch.rand(size, dtype=torch.float64, generator=generator)
    dtype, lengths = scores_dtype(z), _lengths(z, group)
    rank = dist.get_rank(group) if _distributed() else 0
    codebook = z.new_empty(size, z.shape[1], dtype=dtype)
    weights = z.new_ones(len(z), dtype=torch.float64)  # the first seed: any row
    for code in range(size):
        cumulative = weights.cumsum(0)
        masses = torch.zeros(len(lengths), dtype=torch.float64, device=z.device)
        if len(z):
            masses[rank] = cumulative[-1]
        ends = _all_reduce(masses, group).cumsum(0)
        total = float(ends[-1])
        if total == 0:
            raise ValueError(f"z has {code} distinct rows, fewer than size = {size}")
        # Below the end even after rounding, so that the last row with weight is the last choice.
        point = min(float(draws[code]) * total, math.nextafter(total, 0))
        owner = int(torch.searchsorted(ends, point, right=True))
        row = z.new_zeros(1, z.shape[1], dtype=dtype)
        if owner == rank:
            inside = point - (float(ends[owner - 1]) if owner else 0.0)
            inside = min(inside, math.nextafter(float(cumulative[-1]), 0))
            row += z[torch.searchsorted(cumulative, inside, right=True)]
        codebook[code] = _all_reduce(row, group)[0]
        distance = (z.to(dtype) - codebook[code]).square_().sum(1).double()
        weights = distance if code == 0 else torch.minimum(weights, distance)
    return codebook


def _check_state(state: CodebookState, z: Tensor) -> None:
    codebook, counts, sums = state
    if codebook.dtype not in (torch.float32, torch.float64) or not (
        codebook.dtype == counts.dtype == sums.dtype
    ):
        raise TypeError(
            "codebook, counts and sums must all be float32 or all float64, got "
            f"{codebook.dtype}, {counts.dtype}, {sums.dtype}"
        )
    shape = tuple(codebook.shape)
    if len(shape) != 2 or counts.shape != shape[:1] or sums.shape != shape:
        raise ValueError(
            f"codebook, counts and sums must be (K, D), (K,), (K, D), got {shape}, "
            f"{tuple(counts.shape)}, {tuple(sums.shape)}"
        )
    if z.dim() != 2 or z.shape[1] != shape[1]:
        raise ValueError(f"z must be (M, {shape[1]}), got {tuple(z.shape)}")


# --- many processes -------------------------------------------------------------------------------


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _all_reduce(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Sum over the ranks, in place."""
    if _distributed():
        dist.all_reduce(tensor, group=group)
    return tensor


def _lengths(z: Tensor, group: dist.ProcessGroup | None) -> list[int]:
    """Number of rows on each rank."""
    if not _distributed():
        return [len(z)]
    lengths = torch.zeros(dist.get_world_size(group), dtype=torch.int64, device=z.device)
    lengths[dist.get_rank(group)] = len(z)
    return _all_reduce(lengths, group).tolist()


def _rows(
    z: Tensor,
    numbers: Tensor,
    lengths: list[int],
    dtype: torch.dtype,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """Rows (n, D) of the ranks' concatenated ``z``, on every rank."""
    rank = dist.get_rank(group) if _distributed() else 0
    local = numbers.to(z.device) - sum(lengths[:rank])
    mine = (local >= 0) & (local < len(z))
    rows = z.new_zeros(len(numbers), z.shape[1], dtype=dtype)
    rows[mine] = z[local[mine]].to(dtype)
    return _all_reduce(rows, group)  # each row comes from one rank: the sum is exact
