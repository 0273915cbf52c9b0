"""String and clinical metrics of reports against other people's code, and values by hand."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from sklearn.metrics import f1_score

from sagittal_cxr.metrics import clinical, text
from sagittal_cxr.metrics.reports import ReportScorer
from sagittal_cxr.metrics.summed import Patients, Score, mean_score
from sagittal_cxr.reports.labeler import Labeler
from sagittal_cxr.reports.observations import CHEXPERT

VOCABULARY = st.lists(
    st.sampled_from(["no", "pleural", "effusion", "seen", "small", "left"]), max_size=14
)
CORPUS = st.lists(st.tuples(VOCABULARY.filter(bool), VOCABULARY), min_size=1, max_size=5)
NAN = math.nan


class Words:
    """Splits as the metrics do."""

    def tokenize(self, value: str) -> list[str]:
        return text.words(value)


@given(pairs=CORPUS, order=st.integers(1, 4))
def test_bleu_is_that_of_sacrebleu(pairs: list, order: int) -> None:
    references, candidates = ([" ".join(p[i]) for p in pairs] for i in (0, 1))
    peer = sacrebleu.metrics.BLEU(
        tokenize="none", smooth_method="none", max_ngram_order=order, force=True
    )
    rows = text.bleu_statistics(references, candidates)
    corpus = peer.corpus_score(candidates, [references]).score / 100
    assert text.bleu(rows.sum(0), order) == pytest.approx(corpus, abs=1e-9)
    for row, reference, candidate in zip(rows, references, candidates, strict=True):
        alone = peer.corpus_score([candidate], [[reference]]).score / 100
        assert text.bleu(row, order) == pytest.approx(alone, abs=1e-9)


@given(pairs=CORPUS)
def test_rouge_l_is_that_of_rouge_score(pairs: list) -> None:
    references, candidates = ([" ".join(p[i]) for p in pairs] for i in (0, 1))
    peer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Words())
    expected = [
        peer.score(r, c)["rougeL"].fmeasure for r, c in zip(references, candidates, strict=True)
    ]
    np.testing.assert_allclose(text.rouge_l(references, candidates), expected, atol=1e-12)


def test_rouge_l_with_the_beta_of_coco_by_hand() -> None:
    # Three words in common, in order; recall 3/4, precision 3/5.
    found = text.rouge_l(["a b c d"], ["a x b y d"], beta=1.2)
    assert found[0] == pytest.approx(2.44 * 0.75 * 0.6 / (0.75 + 1.44 * 0.6))


def test_cider_d_is_that_of_pycocoevalcap() -> None:
    # Values of its CiderScorer(n=4, sigma=6.0), version 1.2, on the same words.
    references = [
        "The heart is mildly enlarged. No pleural effusion.",
        "No pleural effusion or pneumothorax is seen.",
        "Lungs are clear. The heart is normal in size.",
        "There is a small left pleural effusion and the heart is enlarged.",
    ]
    candidates = [
        "The heart is enlarged. No pleural effusion is seen.",
        "Lungs are clear. No pneumothorax.",
        "The heart is normal in size. Lungs are clear.",
        "",
    ]
    found = text.cider_d(references, candidates)
    np.testing.assert_allclose(found, [2.99403691, 0.78506701, 7.51183497, 0], atol=1e-8)


def test_cider_d_of_equal_texts() -> None:
    references = ["one two three four five", "six seven eight nine ten"]
    np.testing.assert_allclose(text.cider_d(references, references), 10)
    # What is in every document says nothing.
    assert text.cider_d(["same words"] * 3, ["same words"] * 3).tolist() == [0, 0, 0]


def test_words_are_lower_case_without_punctuation() -> None:
    found = text.words("T12 fracture, 5.2 cm.Seen; patient's LEFT-sided\tœdème: ___")
    assert found == ["t12", "fracture", "5.2", "cm", "seen", "patient's", "left", "sided", "œdème"]


def test_texts_of_another_number_are_an_error() -> None:
    for metric in (text.bleu_statistics, text.rouge_l, text.cider_d):
        with pytest.raises(ValueError, match="2 references for 1"):
            metric(["a", "b"], ["a"])


LABELS = st.sampled_from([1.0, 0.0, -1.0, NAN])


@settings(max_examples=25)
@given(data=st.data(), rows=st.integers(1, 6), uncertain=st.booleans())
def test_f1_of_labels_is_that_of_sklearn(data: st.DataObject, rows: int, uncertain: bool) -> None:
    wanted, found = (
        np.array(data.draw(st.lists(LABELS, min_size=rows * 14, max_size=rows * 14))).reshape(
            rows, 14
        )
        for _ in range(2)
    )
    scores = clinical.rule_labels_f1(wanted, found, CHEXPERT, uncertain=uncertain)
    assert [s.name for s in scores] == [
        f"rule_labels_f1 {kind}" for kind in ("micro-14", "macro-14", "micro-5", "macro-5")
    ]
    five = [CHEXPERT.index(name) for name in clinical.CHEXPERT_FIVE]
    present = [(v == 1) | ((v == -1) & uncertain) for v in (wanted, found)]
    for score, columns in zip(scores, (list(range(14)), list(range(14)), five, five), strict=True):
        yes, given_yes = (p[:, columns] for p in present)
        value = float(score.combine(score.parts.sum(0)))
        occurs = yes.any(0) | given_yes.any(0)
        if not occurs.any():
            assert math.isnan(value)
        elif "micro" in score.name:
            assert value == pytest.approx(f1_score(yes.ravel(), given_yes.ravel()))
        else:
            each = [f1_score(yes[:, i], given_yes[:, i]) for i in np.flatnonzero(occurs)]
            assert value == pytest.approx(np.mean(each))


def test_polarity_by_hand() -> None:
    wanted, found = np.full((2, 14), NAN), np.full((2, 14), NAN)
    effusion, edema = CHEXPERT.index("Pleural Effusion"), CHEXPERT.index("Edema")
    wanted[0, [effusion, edema]], found[0, [effusion, edema]] = (0, 1), (1, 1)
    wanted[1, effusion], found[1, edema] = 1, 1  # nothing in common
    wanted[:, 0], found[:, 0] = 1, 0  # No Finding does not count
    score = clinical.polarity_agreement(wanted, found, CHEXPERT)
    assert score.combine(score.parts.sum(0)) == 0.5
    np.testing.assert_array_equal(score.each, [0.5, NAN])


GALLERY = {
    "flip": ("No pleural effusion.", "Pleural effusion."),
    "identical": ("Small left pleural effusion.", "Small left pleural effusion."),
    "paraphrase": ("Mild cardiomegaly.", "The cardiac silhouette is mildly enlarged."),
}


def values(pair: tuple[str, str]) -> dict[str, float]:
    scores = ReportScorer([pair[0]], Labeler()).score([pair[1]])
    return {score.name: float(score.combine(score.parts.sum(0))) for score in scores}


def test_a_negation_turned_over_is_seen_by_labels_and_hardly_by_words() -> None:
    flipped, same = values(GALLERY["flip"]), values(GALLERY["identical"])
    assert flipped["BLEU-1"] > 0.6
    assert flipped["ROUGE-L"] == pytest.approx(0.8)
    assert flipped["rule_labels_f1 micro-14"] == 0
    assert flipped["rule_labels_f1 micro-5"] == 0
    assert flipped["polarity_agreement"] == 0
    assert same["rule_labels_f1 micro-14"] == same["polarity_agreement"] == 1
    assert same["BLEU-4"] == same["ROUGE-L"] == 1
    # The other way round.
    assert values(GALLERY["flip"][::-1])["rule_labels_f1 micro-14"] == 0


def test_a_paraphrase_is_seen_by_labels_and_not_by_words() -> None:
    found = values(GALLERY["paraphrase"])
    assert found["rule_labels_f1 micro-5"] == 1
    assert found["polarity_agreement"] == 1
    assert found["BLEU-2"] == found["ROUGE-L"] == 0


def test_a_change_of_severity_is_not_seen_by_labels() -> None:
    # A limit that the page names: the labels know presence only.
    found = values(("Mild pulmonary edema.", "Severe pulmonary edema."))
    assert found["rule_labels_f1 micro-14"] == 1


def test_an_empty_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 references"):
        ReportScorer(["Clear.", " "], Labeler())


class Cosines:
    """Unit rows: one axis a first letter."""

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.eye(27)[[ord(t[:1].lower() or "{") - ord("a") for t in texts]]


def test_an_empty_candidate_is_like_nothing() -> None:
    score = clinical.sentence_similarity(["ab", "b", "c"], ["ac", "", "x"], Cosines(), "letters")
    assert score.name == "sentence_cosine letters"
    assert score.each.tolist() == [1, 0, 0]


def radcliq(**values: float) -> clinical.RadCliQ:
    full = {"radgraph": 1.0, "bertscore": 1.0, "chexbert": 1.0, "bleu": 1.0} | values
    scorers = {
        name: (lambda references, _, value=value: np.full(len(references), value))
        for name, value in full.items()
    }
    return clinical.RadCliQ(**scorers)


def test_radcliq_and_its_three_conventions() -> None:
    average = radcliq(
        radgraph=0.53792312, bertscore=0.61757256, chexbert=0.76479421, bleu=0.44738335
    )
    assert average.raw(["a", "b"], ["a", "b"]) == pytest.approx([2.5e-10] * 2)
    assert average.reward(["a"], ["a"]) == pytest.approx([1.0])
    best = radcliq()
    by_hand = (
        -0.377083683 * (1 - 0.53792312) / 0.30282584
        - 0.370300100 * (1 - 0.61757256) / 0.22430938
        - 0.252616218 * (1 - 0.76479421) / 0.25394391
    )
    assert best.raw(["a"], ["a"])[0] == pytest.approx(by_hand)
    assert best.reward(["a"], ["a"])[0] == pytest.approx(2 / (1 + math.exp(by_hand)))
    # A perfect corpus has a negative mean, whose inverse would rank it below every other.
    with pytest.raises(ValueError, match=re.escape("1 / RadCliQ-v1 is not defined")):
        best.inverse_mean(["a"], ["a"])
    worse = radcliq(radgraph=0.1, bertscore=0.2, chexbert=0.3)
    raw = worse.raw(["a"], ["a"])[0]
    assert raw > 0 > best.raw(["a"], ["a"])[0]
    assert worse.inverse_mean(["a"], ["a"]) == pytest.approx(1 / raw)
    assert worse.reward(["a"], ["a"])[0] < 1 < best.reward(["a"], ["a"])[0]
    with pytest.raises(ValueError, match="scorer 1 of RadCliQ"):
        radcliq(bertscore=NAN).raw(["a"], ["a"])


def test_an_interval_over_patients_is_that_of_the_rows_repeated() -> None:
    rng = np.random.default_rng(0)
    names = rng.integers(0, 7, 30)
    references = [" ".join(rng.choice(list("abcd"), 8)) for _ in range(30)]
    candidates = [" ".join(rng.choice(list("abcd"), 8)) for _ in range(30)]
    rows = text.bleu_statistics(references, candidates)
    score = Score("BLEU-2", rows, lambda sums: text.bleu(sums, 2), text.bleu(rows, 2))
    patients = Patients(names, 20, seed=1)
    found = patients.estimate(score)
    assert found.patients == 7
    assert found.value == pytest.approx(
        sacrebleu.metrics.BLEU(tokenize="none", smooth_method="none", max_ngram_order=2, force=True)
        .corpus_score(candidates, [references])
        .score
        / 100
    )
    from sagittal_core.resampling import Resamples

    for draw, counts in zip(found.draws, Resamples(names, 20, 1).counts, strict=True):
        repeated = np.repeat(np.arange(30), counts[names])
        assert draw == pytest.approx(text.bleu(rows[repeated].sum(0), 2))
    assert found.low is not None
    assert found.low <= found.value <= found.high
    # The same reports by the same source differ by nothing, in every resample.
    assert patients.difference(score, score).draws.tolist() == [0] * 20


def test_values_that_do_not_exist_do_not_count() -> None:
    score = mean_score("x", [1, NAN, 3])
    found = Patients(["a", "b", "c"]).estimate(score)
    assert (found.value, found.low, found.patients) == (2, None, 3)
    assert str(found) == "2.000"
    assert math.isnan(Patients(["a"]).estimate(mean_score("x", [NAN])).value)
    with pytest.raises(ValueError, match="no report"):
        Patients([])
