"""Candidates as every selector works on them: validated, by row number, float64 on the CPU.

A decision must not depend on the order of a batch nor on the device: pairs are put in the order of
their row numbers first, arithmetic is float64 on the CPU, and ties fall to the lower row number.
Batches are hundreds of pairs, so this costs little beside an encoder's forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sagittal_core.errors import DataError
from sagittal_core.seeds import counter_seed
from sagittal_cxr.curation.selector import Candidates, Selection

_UNIT = 1e-2  # how far from 1 the length of a row may be: half precision is at 1e-3


def ordered(candidates: Candidates) -> tuple[Candidates, Tensor]:
    """Check a batch and put it in the order of its row numbers.

    Args:
        candidates: The batch.

    Returns:
        The batch with float64 on the CPU; and (N,) int64, where each of its pairs was.

    Raises:
        DataError: If shapes do not fit, a row number occurs twice, a value is NaN or infinite, or
            an embedding is not of unit length.
    """
    rows = candidates.rows.detach().cpu().to(torch.int64)
    if rows.dim() != 1:
        raise _error("rows", "(N,)", f"{tuple(rows.shape)}")
    order = torch.argsort(rows, stable=True)
    rows = rows[order]
    if bool((rows[1:] == rows[:-1]).any()):
        raise _error("rows", "no row number twice", f"{len(rows) - len(rows.unique())} repeats")
    fields: dict[str, Tensor | None] = {}
    for name in ("images", "texts", "reference_images", "reference_texts"):
        fields[name] = _embedded(name, getattr(candidates, name), order)
    for name in ("losses", "reference_losses"):
        fields[name] = _values(name, getattr(candidates, name), order)
    images, texts = fields.pop("images"), fields.pop("texts")
    assert images is not None
    assert texts is not None
    return Candidates(rows, images, texts, **fields), order


def restored(keep: Tensor, reasons: Tensor, order: Tensor, like: Tensor) -> Selection:
    """A decision over ordered pairs in the order, and on the device, that the batch had.

    Args:
        keep: (N,) bool by row number.
        reasons: (N,) int64 by row number.
        order: What :func:`ordered` returned.
        like: A tensor on the batch's device.
    """
    kept, why = torch.empty_like(keep), torch.empty_like(reasons)
    kept[order], why[order] = keep, reasons
    return Selection(kept.to(like.device), why.to(like.device))


def uniform_of(rows: Tensor, seed: int, *counters: int | str) -> Tensor:
    """A number in (0, 1) for each row: a function of the seed, the counters and the row alone.

    Args:
        rows: (N,) int64.
        seed: Of the selector.
        *counters: What the number is for.

    Returns:
        (N,) float64.
    """
    drawn = [counter_seed(seed, *counters, int(row)) for row in rows.tolist()]
    return torch.tensor([(d + 0.5) / 2.0**63 for d in drawn], dtype=torch.float64)


def needed(candidates: Candidates, selector: str, *names: str) -> list[Tensor]:
    """Fields that a rule cannot do without.

    Raises:
        DataError: One is None.
    """
    for name in names:
        if getattr(candidates, name) is None:
            raise _error(name, f"values, which {selector} decides by", "None")
    return [getattr(candidates, name) for name in names]


def cosines(images: Tensor, texts: Tensor) -> Tensor:
    """(N, N) cosine of image i and text j.

    Raises:
        DataError: If they are not of one space.
    """
    _expect_common(images, texts)
    return images @ texts.T


def own_cosines(images: Tensor, texts: Tensor) -> Tensor:
    """(N,) cosine of image i and text i; errors as :func:`cosines`."""
    _expect_common(images, texts)
    return (images * texts).sum(1)


def _expect_common(images: Tensor, texts: Tensor) -> None:
    if images.shape[1] != texts.shape[1]:
        raise DataError(
            "candidates",
            key="texts",
            expected=f"{images.shape[1]} values each, as images: one space for both",
            found=str(texts.shape[1]),
            hint="two encoders that were not trained together have no common space",
        )


def _embedded(name: str, values: Tensor | None, order: Tensor) -> Tensor | None:
    if values is None:
        return None
    here = values.detach().cpu().to(torch.float64)
    if here.dim() != 2 or len(here) != len(order):
        raise _error(name, f"({len(order)}, D)", f"{tuple(here.shape)}")
    _expect_finite(name, here)
    lengths = here.norm(dim=1)
    off = (lengths - 1.0).abs() > _UNIT
    if bool(off.any()):
        raise _error(name, "rows of unit length", f"{float(lengths[off][0]):.4g} in {_many(off)}")
    return (here / lengths[:, None])[order]


def _values(name: str, values: Tensor | None, order: Tensor) -> Tensor | None:
    if values is None:
        return None
    here = values.detach().cpu().to(torch.float64)
    if here.shape != order.shape:
        raise _error(name, f"({len(order)},)", f"{tuple(here.shape)}")
    _expect_finite(name, here[:, None])
    return here[order]


def _expect_finite(name: str, rows: Tensor) -> None:
    bad = ~torch.isfinite(rows).all(1)
    if bool(bad.any()):
        raise _error(name, "finite values", f"NaN or infinity in {_many(bad)}")


def _many(which: Tensor) -> str:
    return f"{int(which.sum())} of {len(which)} rows"


def _error(key: str, expected: str, found: str) -> DataError:
    hint = "the model has diverged, or an encoder is broken" if "NaN" in found else ""
    return DataError("candidates", key=key, expected=expected, found=found, hint=hint)
