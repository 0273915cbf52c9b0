"""All measures of generated reports against reference reports, as one list of scores."""

from __future__ import annotations

from collections.abc import Sequence

from sagittal_cxr.metrics.clinical import (
    EncodesTexts,
    LabelsReports,
    finding_f1,
    polarity_agreement,
    rule_labels_f1,
    sentence_similarity,
)
from sagittal_cxr.metrics.summed import Score, mean_score
from sagittal_cxr.metrics.text import ORDERS, bleu, bleu_statistics, cider_d, rouge_l
from sagittal_cxr.reports.observations import CHEXPERT


class ReportScorer:
    """Scores candidates against one set of references, whose labels are read once.

    Args:
        references: N reports, none of them empty.
        labeler: Reads findings in reports.
        encoder: Of sentences; None: no likeness by embedding.
        encoder_name: Becomes part of that score's name.

    Raises:
        ValueError: If a reference is empty.
    """

    def __init__(
        self,
        references: Sequence[str],
        labeler: LabelsReports,
        encoder: EncodesTexts | None = None,
        encoder_name: str = "",
    ) -> None:
        empty = sum(not text.strip() for text in references)
        if empty:
            raise ValueError(f"{empty} of {len(references)} references are empty")
        self._references = list(references)
        self._labeler, self._encoder, self._encoder_name = labeler, encoder, encoder_name
        self._labels = labeler.label_many(self._references)

    def score(self, candidates: Sequence[str]) -> list[Score]:
        """BLEU-1..4, ROUGE-L, CIDEr-D, F1 and polarity of labels by rule, likeness of sentences.

        Args:
            candidates: N reports in the order of the references; an empty one is scored as such.
        """
        references, given = self._references, list(candidates)
        statistics = bleu_statistics(references, given)
        scores = [
            Score(
                f"BLEU-{order}",
                statistics,
                lambda sums, order=order: bleu(sums, order),  # type: ignore[misc]
                bleu(statistics, order),
                "of the corpus, not smoothed",
            )
            for order in range(1, ORDERS + 1)
        ]
        scores.append(mean_score("ROUGE-L", rouge_l(references, given), "F1, no stemming"))
        note = "0..10; document frequencies of the references"
        scores.append(mean_score("CIDEr-D", cider_d(references, given), note))
        labels = self._labeler.label_many(given)
        scores += rule_labels_f1(self._labels, labels, CHEXPERT)
        scores.append(polarity_agreement(self._labels, labels, CHEXPERT))
        if self._encoder is not None:
            scores.append(sentence_similarity(references, given, self._encoder, self._encoder_name))
        return scores

    def findings(self, candidates: Sequence[str]) -> list[Score]:
        """F1 by label of each CheXpert finding."""
        return finding_f1(self._labels, self._labeler.label_many(list(candidates)), CHEXPERT)
