"""Lexical similarity: TF-IDF over short texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def words(text: str) -> list[str]:
    """Words in lower case, plurals without their s."""
    found = re.findall(r"[^\W_]+", text.lower())
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in found]


class TfIdf:
    """Cosine similarity of a query to each of n texts, words weighted by how rare they are.

    Weights are ``(1 + log tf) * log(1 + n / df)``. The same rule runs in the gallery's page.

    Args:
        texts: To be searched.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        bags = [Counter(words(text)) for text in texts]
        frequency = Counter(word for bag in bags for word in bag)
        self._rare = {w: float(np.log(1 + len(texts) / df)) for w, df in frequency.items()}
        self._rows = [self._weights(bag) for bag in bags]

    def _weights(self, bag: Counter[str]) -> dict[str, float]:
        raw = {w: (1 + np.log(n)) * self._rare[w] for w, n in bag.items() if w in self._rare}
        norm = float(np.sqrt(sum(v * v for v in raw.values()))) or 1.0
        return {w: v / norm for w, v in raw.items()}

    def scores(self, query: str) -> NDArray[np.float64]:
        """Similarity in [0, 1] to every text, (n,); words that no text has count as nothing."""
        wanted = self._weights(Counter(words(query)))
        return np.array([sum(v * row.get(w, 0.0) for w, v in wanted.items()) for row in self._rows])
