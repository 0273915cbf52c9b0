"""Boxes of several readers merged into one set, by weighted box fusion (Solovyev et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sagittal_cxr.records import Box


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    wide = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    high = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    if wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
    return both / (a.width * a.height + b.width * b.height - both)


def merge_boxes(
    boxes: Sequence[Box], *, threshold: float = 0.4, readers: int = 1
) -> tuple[Box, ...]:
    """Fuse boxes of one finding that overlap, whoever drew them.

    In the order given, a box joins the fused box of the same finding that it overlaps most, if that
    is more than the threshold, and otherwise begins one of its own. The fused box is the mean of
    its members' edges: readers count alike, for they give no scores. As fused boxes move, the order
    matters little but may matter.

    Args:
        boxes: of one picture.
        threshold: intersection over union, in [0, 1).
        readers: fused boxes of fewer different readers are left out.

    Returns:
        The fused boxes in the order of their first members; ``reader`` lists who drew them, joined
        by ``+``.

    Raises:
        ValueError: if the threshold is out of range.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be in [0, 1), got {threshold}")
    groups: list[list[Box]] = []
    fused: list[Box] = []
    for box in boxes:
        shares = [overlap(box, f) if f.finding == box.finding else 0.0 for f in fused]
        best = max(range(len(fused)), key=shares.__getitem__, default=None)
        if best is not None and shares[best] > threshold:
            groups[best].append(box)
            fused[best] = _mean(groups[best])
        else:
            groups.append([box])
            fused.append(box)
    named = [_named(one, group) for one, group in zip(fused, groups, strict=True)]
    counts = [len({b.reader for b in group}) for group in groups]
    return tuple(one for one, count in zip(named, counts, strict=True) if count >= readers)


def _mean(group: Sequence[Box]) -> Box:
    n = len(group)
    return Box(
        group[0].finding,
        sum(b.x for b in group) / n,
        sum(b.y for b in group) / n,
        sum(b.width for b in group) / n,
        sum(b.height for b in group) / n,
    )


def _named(box: Box, group: Sequence[Box]) -> Box:
    names = dict.fromkeys(b.reader for b in group if b.reader is not None)
    return replace(box, reader="+".join(names) or None)
