"""Ranks of images and texts among each other, where several of them belong together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_CHUNK_ELEMENTS = 4_000_000
"""Bounds a matrix of similarities to ~32 MB."""


def folded(text: str) -> str:
    """A text with every run of white space as one blank: what makes two texts the same here."""
    return " ".join(text.split())


def distinct(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Texts without repeats, in order of first occurrence, and for each text its number there."""
    place: dict[str, int] = {}
    which = [place.setdefault(folded(text), len(place)) for text in texts]
    return list(place), np.array(which, dtype=np.int64)


def image_to_text_ranks(
    images: NDArray[np.float32], texts: NDArray[np.float32], own: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Rank of each image's own text among all distinct texts, 1 is best.

    Args:
        images: (N, D) unit rows.
        texts: (M, D) unit rows of distinct texts.
        own: (N,) the text of each image.

    Returns:
        (N,). A text as similar as the own one counts one half, so equal rows give the mean rank.
    """
    ranks = np.empty(len(images))
    for part in _chunks(len(images), len(texts)):
        similar = images[part] @ texts.T
        mine = np.take_along_axis(similar, own[part, None], axis=1)
        above, level = (similar > mine).sum(1), (similar == mine).sum(1) - 1
        ranks[part] = 1 + above + level / 2
    return ranks


def text_to_image_ranks(
    images: NDArray[np.float32], texts: NDArray[np.float32], own: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Rank of the best image of each distinct text among the images of other texts, 1 is best.

    Args:
        images: (N, D) unit rows.
        texts: (M, D) unit rows of distinct texts, each with at least one image.
        own: (N,) the text of each image.

    Returns:
        (M,) one plus the images of other texts that are more similar than the best own one; an
        image as similar counts one half.
    """
    ranks = np.empty(len(texts))
    for part in _chunks(len(texts), len(images)):
        similar = texts[part] @ images.T
        mine = own[None, :] == np.arange(len(texts))[part, None]
        best = np.where(mine, similar, -np.inf).max(1, keepdims=True)
        above = ((similar > best) & ~mine).sum(1)
        level = ((similar == best) & ~mine).sum(1)
        ranks[part] = 1 + above + level / 2
    return ranks


def chance_image_to_text(texts: int, k: int) -> float:
    """Recall at k of a random order of ``texts`` distinct texts."""
    return min(k, texts) / texts


def chance_text_to_image(own: NDArray[np.int64], k: int) -> float:
    """Mean over texts of the chance that k of N images drawn at random hold one of its own.

    For a text with g of N images: ``1 - C(N - g, k) / C(N, k)``.

    Args:
        own: (N,) the text of each image.
        k: Images drawn.
    """
    sizes = np.bincount(own)
    sizes, total = sizes[sizes > 0], len(own)
    steps = np.arange(min(k, total))
    missed = np.prod(np.clip((total - sizes[:, None] - steps) / (total - steps), 0, 1), axis=1)
    return float(np.mean(1 - missed))


def _chunks(count: int, width: int) -> Iterator[slice]:
    size = max(1, _CHUNK_ELEMENTS // max(1, width))
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))
