"""Whether two reports say the same: labels by rule, likeness of sentences, RadCliQ's formula.

``rule_labels_f1`` compares what this package's rule labeler reads in both reports. It is no
CheXbert F1, whose labels come from a trained network; the two are not comparable across papers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sagittal_cxr.metrics.summed import Array, Score, mean_score, share

CHEXPERT_FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The five findings of CheXpert's competition, over which "F1-5" is taken."""


class LabelsReports(Protocol):
    """What reads findings in reports."""

    def label_many(self, texts: Sequence[str]) -> NDArray[np.floating]:
        """(N, L): 1 present, 0 absent, -1 uncertain, NaN not mentioned."""
        ...


class EncodesTexts(Protocol):
    """What makes unit rows of texts, such as core's ``SentenceEncoder``."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(N, D) rows of unit length."""
        ...


def label_hits(
    references: ArrayLike, candidates: ArrayLike, *, uncertain: bool = False
) -> NDArray[np.float64]:
    """True positives, false positives and false negatives of each report and finding.

    Args:
        references: (N, L) labels 1, 0, -1 or NaN.
        candidates: (N, L) as well.
        uncertain: Count -1 as present, in both ("rrg" mode of CheXbert's F1).

    Returns:
        (N, L, 3).

    Raises:
        ValueError: If the shapes differ.
    """
    wanted, given = np.asarray(references, dtype=float), np.asarray(candidates, dtype=float)
    if wanted.shape != given.shape:
        raise ValueError(f"labels differ in shape: {wanted.shape} and {given.shape}")
    yes = [(values == 1) | ((values == -1) & uncertain) for values in (wanted, given)]
    hits = [yes[0] & yes[1], ~yes[0] & yes[1], yes[0] & ~yes[1]]
    return np.stack(hits, axis=-1).astype(np.float64)


def f1(hits: Array) -> Array:
    """F1 of (..., 3) counts; NaN where there is nothing to find and nothing was found."""
    hit, wrong, missed = hits[..., 0], hits[..., 1], hits[..., 2]
    below = 2 * hit + wrong + missed
    return np.where(below > 0, 2 * hit / np.maximum(below, 1), np.nan)


def _by_finding(sums: Array) -> Array:
    """(..., 3 L) as (..., L, 3); of no resamples as well."""
    return sums.reshape(*sums.shape[:-1], sums.shape[-1] // 3, 3)


def _micro(sums: Array) -> Array:
    return f1(_by_finding(sums).sum(-2))


def _macro(sums: Array) -> Array:
    """Mean over the findings that occur in a reference or a candidate."""
    each = f1(_by_finding(sums))
    known = np.isfinite(each)
    count = known.sum(-1)
    total = np.where(known, each, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def rule_labels_f1(
    references: ArrayLike, candidates: ArrayLike, names: Sequence[str], *, uncertain: bool = False
) -> list[Score]:
    """F1 of the findings that a rule labeler reads as present.

    Micro pools the reports' findings; macro is the mean over findings, without those that neither
    references nor candidates hold. "5" are :data:`CHEXPERT_FIVE`.

    Args:
        references: (N, L) labels of the references: 1, 0, -1 or NaN.
        candidates: (N, L) labels of the candidates.
        names: L findings.
        uncertain: Count uncertain findings as present.

    Returns:
        ``rule_labels_f1 micro-L``, ``macro-L``, ``micro-5``, ``macro-5``; one of a report alone is
        its micro F1.

    Raises:
        ValueError: If the shapes differ, or one of the five is not among the names.
    """
    hits = label_hits(references, candidates, uncertain=uncertain)
    if hits.shape[1] != len(names) or not set(CHEXPERT_FIVE) <= set(names):
        raise ValueError(f"{hits.shape[1]} labels with {len(names)} names: {', '.join(names)}")
    note = "present findings by this package's rule labeler; no CheXbert F1"
    scores = []
    for chosen in (list(range(len(names))), [list(names).index(name) for name in CHEXPERT_FIVE]):
        parts = hits[:, chosen].reshape(len(hits), -1)
        for kind, combine in (("micro", _micro), ("macro", _macro)):
            name = f"rule_labels_f1 {kind}-{len(chosen)}"
            scores.append(Score(name, parts, combine, _micro(parts), note))
    return scores


def finding_f1(references: ArrayLike, candidates: ArrayLike, names: Sequence[str]) -> list[Score]:
    """F1 of each finding apart, named after it."""
    hits = label_hits(references, candidates)
    return [Score(n, hits[:, i], f1, f1(hits[:, i])) for i, n in enumerate(names)]


def polarity_agreement(references: ArrayLike, candidates: ArrayLike, names: Sequence[str]) -> Score:
    """Of findings that both reports judge present or absent, the share that they judge alike.

    F1 of present findings does not see that a negative sentence is missing or wrong where nothing
    is present; this does see a flip in both directions. "No Finding" is no finding.

    Args:
        references: (N, L) labels: 1, 0, -1 or NaN.
        candidates: (N, L).
        names: L findings.
    """
    keep = [i for i, name in enumerate(names) if name != "No Finding"]
    wanted, given = (np.asarray(v, dtype=float)[:, keep] for v in (references, candidates))
    judged = np.isin(wanted, (0, 1)) & np.isin(given, (0, 1))
    parts = np.stack([(judged & (wanted == given)).sum(1), judged.sum(1)], 1).astype(np.float64)
    note = f"{int((parts[:, 1] > 0).sum())} of {len(parts)} reports share a judged finding"
    return Score("polarity_agreement", parts, share, share(parts), note)


def sentence_similarity(
    references: Sequence[str], candidates: Sequence[str], encoder: EncodesTexts, name: str
) -> Score:
    """Mean cosine of whole reports by a general sentence encoder.

    It is neither BERTScore nor CheXbert's similarity, and hardly sees a negation. An empty
    candidate scores 0.

    Args:
        references: N texts.
        candidates: N texts.
        encoder: Of both.
        name: Of the encoder, which becomes part of the score's name.
    """
    rows = [np.asarray(encoder.encode(list(texts))) for texts in (references, candidates)]
    empty = np.array([not text.strip() for text in candidates], dtype=bool)
    cosine = np.where(empty, 0.0, (rows[0] * rows[1]).sum(1))
    return mean_score(f"sentence_cosine {name}", cosine, "a general encoder, not a clinical one")


Scorer = Callable[[Sequence[str], Sequence[str]], ArrayLike]


class RadCliQ:
    """RadCliQ-v1 (Yu et al., 2023): a linear rule on four other measures.

    x = sum_i coef_i (value_i - mean_i) / scale_i + intercept, which was fitted to the number of
    errors that radiologists count: **lower is better**, and the best possible is
    about -1.44. Three conventions of one number are about, so each has a name here:

    ================  ===============================================  ========================
    ``raw``           x of each report, lower is better                Yu et al.
    ``inverse_mean``  1 / mean of x, higher is better; not defined     ReXrank, RadEval
                      unless the mean is above 0
    ``reward``        2 sigmoid(-x) of each report, 0..2               CheXOne's reward
    ================  ===============================================  ========================

    The four measures are injected, as three need weights that do not come with this package. With
    others than the published ones the result is no RadCliQ, and must not be called so.

    Args:
        radgraph: Mean of RadGraph's entity F1 and relation F1, 0..1.
        bertscore: BERTScore F1, distilbert-base-uncased, rescaled by its baseline.
        chexbert: Cosine of CheXbert's embeddings.
        bleu: BLEU-2 of each report; its weight is 4e-12.
    """

    MEAN = (0.53792312, 0.61757256, 0.76479421, 0.44738335)
    SCALE = (0.30282584, 0.22430938, 0.25394391, 0.29892717)
    COEFFICIENTS = (-0.377083683, -0.370300100, -0.252616218, 4.3e-12)
    INTERCEPT = 2.5e-10

    def __init__(
        self, *, radgraph: Scorer, bertscore: Scorer, chexbert: Scorer, bleu: Scorer
    ) -> None:
        self._scorers = (radgraph, bertscore, chexbert, bleu)

    def raw(self, references: Sequence[str], candidates: Sequence[str]) -> Array:
        """X of each report, (N,); lower is better.

        Raises:
            ValueError: If a scorer gives another number of values, or one that is not finite.
        """
        total = np.full(len(references), self.INTERCEPT)
        for number, scorer in enumerate(self._scorers):
            values = np.asarray(scorer(references, candidates), dtype=np.float64)
            if values.shape != total.shape or not np.isfinite(values).all():
                raise ValueError(
                    f"scorer {number} of RadCliQ: expected {len(total)} finite values, got shape"
                    f" {values.shape}"
                )
            total += self.COEFFICIENTS[number] * (values - self.MEAN[number]) / self.SCALE[number]
        return total

    def inverse_mean(self, references: Sequence[str], candidates: Sequence[str]) -> float:
        """1 / mean of x over the corpus; higher is better, as long as the mean is above 0.

        Raises:
            ValueError: If the mean is 0 or below, where the convention turns over.
        """
        mean = float(self.raw(references, candidates).mean())
        if mean <= 0:
            raise ValueError(f"1 / RadCliQ-v1 is not defined for a mean of {mean:.4g}; use raw")
        return 1 / mean

    def reward(self, references: Sequence[str], candidates: Sequence[str]) -> Array:
        """2 sigmoid(-x) of each report, (N,), between 0 and 2; higher is better."""
        return 2 / (1 + np.exp(self.raw(references, candidates)))
