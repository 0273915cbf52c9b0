"""How alike two reports are as strings: BLEU, ROUGE-L and CIDEr-D on lower-case words.

None of them knows what a report says: "No pleural effusion." and "Pleural effusion." share two of
three words. Read them beside :mod:`sagittal_cxr.metrics.clinical`. METEOR is left out: without
WordNet's synonyms it is another measure under the same name.

Words are runs of letters and digits in lower case; punctuation is dropped, as coco-caption does
after its tokeniser. Values are 0..1, those of CIDEr-D 0..10.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ORDERS = 4
"""Longest n-gram of BLEU and CIDEr-D."""

# "t12", "5.2", "patient's"; a full stop between letters ends a word ("seen.The").
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+|(?<=\d)\.\d+)*")

Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def _grams(tokens: Sequence[str], order: int) -> Counter[Gram]:
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


def _expect_pairs(references: Sequence[str], candidates: Sequence[str]) -> None:
    if len(references) != len(candidates):
        raise ValueError(f"{len(references)} references for {len(candidates)} candidates")


def bleu_statistics(references: Sequence[str], candidates: Sequence[str]) -> NDArray[np.float64]:
    """What BLEU sums over a corpus (Papineni et al., 2002), for one reference a candidate.

    Args:
        references: N texts.
        candidates: N texts.

    Returns:
        (N, 10): n-grams of the candidate that are in the reference (clipped) for n = 1..4, n-grams
        of the candidate for n = 1..4, words of the candidate, words of the reference.

    Raises:
        ValueError: If the numbers of texts differ.
    """
    _expect_pairs(references, candidates)
    rows = np.zeros((len(references), 2 * ORDERS + 2))
    for row, reference, candidate in zip(rows, references, candidates, strict=True):
        wanted, given = words(reference), words(candidate)
        for n in range(1, ORDERS + 1):
            grams = _grams(given, n)
            row[n - 1] = (grams & _grams(wanted, n)).total()
            row[ORDERS + n - 1] = grams.total()
        row[-2:] = len(given), len(wanted)
    return rows


def bleu(statistics: NDArray[np.float64], order: int = ORDERS) -> NDArray[np.float64]:
    """BLEU-n of summed statistics: brevity penalty times the geometric mean of n precisions.

    Not smoothed: 0 if an order has no match, which is the rule for one short report. A corpus has
    one value, of its sum; the mean of the reports' values is another number.

    Args:
        statistics: (..., 10), rows of :func:`bleu_statistics` or sums of such rows.
        order: n, 1 to 4.

    Returns:
        (...,).
    """
    matched, total = statistics[..., :order], statistics[..., ORDERS : ORDERS + order]
    given, wanted = statistics[..., -2], statistics[..., -1]
    there = np.all(matched > 0, axis=-1, keepdims=True)
    ratio = np.where(there, matched, 1) / np.maximum(total, 1)
    penalty = np.exp(np.minimum(0, 1 - wanted / np.maximum(given, 1)))
    return np.where(there[..., 0], penalty * np.exp(np.log(ratio).mean(-1)), 0.0)


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, bits of an integer at a time (Hyyrö, 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(first)) - 1
    free = every
    for word in second:
        hit = free & places.get(word, 0)
        free = (free + hit | free - hit) & every
    return len(first) - free.bit_count()


def rouge_l(
    references: Sequence[str], candidates: Sequence[str], beta: float = 1.0
) -> NDArray[np.float64]:
    """ROUGE-L (Lin, 2004) of each candidate over the whole text, without stemming.

    F_beta = (1 + beta^2) R P / (R + beta^2 P) with R and P the longest common subsequence over
    the words of the reference and of the candidate.

    Args:
        references: N texts.
        candidates: N texts.
        beta: 1 as in the package rouge-score; coco-caption has 1.2.

    Returns:
        (N,); 0 where a text is empty.

    Raises:
        ValueError: If the numbers of texts differ.
    """
    _expect_pairs(references, candidates)
    found = np.zeros(len(references))
    for i, (reference, candidate) in enumerate(zip(references, candidates, strict=True)):
        wanted, given = words(reference), words(candidate)
        if shared := common_subsequence(wanted, given):
            recall, precision = shared / len(wanted), shared / len(given)
            found[i] = (1 + beta**2) * recall * precision / (recall + beta**2 * precision)
    return found


def cider_d(
    references: Sequence[str],
    candidates: Sequence[str],
    corpus: Sequence[str] | None = None,
    sigma: float = 6.0,
) -> NDArray[np.float64]:
    """CIDEr-D (Vedantam et al., 2015) of each candidate, as coco-caption computes it.

    Ten times the mean over n = 1..4 of the tf-idf cosine of n-grams, where the candidate's weight
    is clipped at the reference's, times a gaussian penalty of the difference in length. The
    length counts bigrams, as in coco-caption's code.

    Args:
        references: N texts.
        candidates: N texts.
        corpus: Texts that give the document frequencies; None: the references. A word that is in
            all of them weighs nothing, so that one text alone, or equal ones, give 0.
        sigma: Of the length penalty, in n-grams.

    Returns:
        (N,), 0..10.

    Raises:
        ValueError: If the numbers of texts differ.
    """
    _expect_pairs(references, candidates)
    documents = references if corpus is None else corpus
    frequency: Counter[Gram] = Counter()
    for document in documents:
        tokens = words(document)
        for n in range(1, ORDERS + 1):
            frequency.update(set(_grams(tokens, n)))
    logs = {gram: float(np.log(count)) for gram, count in frequency.items()}
    most = float(np.log(max(len(documents), 1)))
    found = np.zeros(len(references))
    for i, (reference, candidate) in enumerate(zip(references, candidates, strict=True)):
        wanted, given = words(reference), words(candidate)
        apart = max(len(given) - 1, 0) - max(len(wanted) - 1, 0)
        cosines = [
            _clipped_cosine(_grams(given, n), _grams(wanted, n), logs, most)
            for n in range(1, ORDERS + 1)
        ]
        found[i] = 10 * np.mean(cosines) * np.exp(-(apart**2) / (2 * sigma**2))
    return found


def _clipped_cosine(
    given: Counter[Gram], wanted: Counter[Gram], logs: dict[Gram, float], most: float
) -> float:
    """Cosine of two tf-idf vectors whose first is clipped at the second in the product."""
    vectors = [
        {gram: count * (most - logs.get(gram, 0.0)) for gram, count in grams.items()}
        for grams in (given, wanted)
    ]
    norms = [sum(weight**2 for weight in vector.values()) ** 0.5 for vector in vectors]
    if not all(norms):
        return 0.0
    first, second = vectors
    product = sum(min(w, second[g]) * second[g] for g, w in first.items() if g in second)
    return product / (norms[0] * norms[1])
