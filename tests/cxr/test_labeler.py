"""The rule labeler: sentences by hand for every kind of rule, aggregation, and any text at all."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_core.errors import ConfigError
from sagittal_cxr.reports.labeler import Labeler
from sagittal_cxr.reports.labeler.cues import CUES, MARKS
from sagittal_cxr.reports.labeler.phrases import PHRASES, STATEMENTS
from sagittal_cxr.reports.observations import CHEXPERT

LABELER = Labeler()
SHORT = {
    "EC": "Enlarged Cardiomediastinum",
    "CM": "Cardiomegaly",
    "LO": "Lung Opacity",
    "LL": "Lung Lesion",
    "ED": "Edema",
    "CO": "Consolidation",
    "PN": "Pneumonia",
    "AT": "Atelectasis",
    "PT": "Pneumothorax",
    "PE": "Pleural Effusion",
    "PO": "Pleural Other",
    "FR": "Fracture",
    "SD": "Support Devices",
}
SENTENCES = {
    # negation before, lists
    "No pleural effusion.": "PE0",
    "no effusion, consolidation or pneumothorax": "PE0 CO0 PT0",
    "There is no focal consolidation, large pleural effusion, or evidence of pneumothorax.": (
        "CO0 PE0 PT0"
    ),
    "Without evidence of edema or effusion.": "ED0 PE0",
    "Negative for pneumonia.": "PN0",
    "The lungs are free of consolidation and edema.": "CO0 ED0",
    "Neither effusion nor pneumothorax.": "PE0 PT0",
    "No displaced rib fractures.": "FR0",
    "FINDINGS: No pneumothorax.": "PT0",
    "Absence of pneumothorax is confirmed.": "PT0",
    "This is atelectasis rather than pneumonia.": "AT1 PN0",
    "The opacity doesn't represent pneumonia.": "LO1 PN0",
    # where a negation ends
    "No pneumothorax, small left pleural effusion.": "PT0 PE1",
    "No pneumothorax but moderate edema.": "PT0 ED1",
    "No pneumothorax with stable effusion.": "PT0 PE1",
    "No pneumothorax and the effusion is unchanged.": "PT0 PE1",
    "No consolidation; there is cardiomegaly.": "CO0 CM1",
    "No pneumothorax following chest tube placement.": "PT0 SD1",
    # negation after
    "Pneumothorax is no longer seen.": "PT0",
    "The right effusion has resolved.": "PE0",
    "The effusion and the edema have completely cleared.": "PE0 ED0",
    "Pleural effusion is not present.": "PE0",
    "Pneumothorax: none.": "PT0",
    "Edema is absent.": "ED0",
    "Resolved pneumonia.": "PN0",
    "Interval resolution of the pneumothorax.": "PT0",
    "The chest tube has been removed.": "SD0",
    "Removal of the endotracheal tube.": "SD0",
    # about change, not presence
    "Unchanged pleural effusion.": "PE1",
    "No change in pleural effusion.": "PE1",
    "No significant interval increase in pulmonary edema.": "ED1",
    "The consolidation has not changed.": "CO1",
    "Small pneumothorax, not significantly increased.": "PT1",
    "The effusion has nearly resolved.": "PE1",
    "Effusion may have increased slightly.": "PE1",
    "Decreased, now small pneumothorax.": "PT1",
    "Nasogastric tube courses below the diaphragm, tip not seen.": "SD1",
    # doubt and double negation
    "Pneumonia cannot be excluded.": "PN-",
    "Can't rule out pneumonia.": "PN-",
    "Cannot entirely exclude a small effusion.": "PE-",
    "A small pneumothorax is not excluded.": "PT-",
    "Pneumothorax small, on the left, if any.": "PT-",
    "? pneumonia": "PN-",
    "Pneumonia is unlikely.": "PN-",
    "Atelectasis, less likely pneumonia.": "AT1 PN-",
    # hedges
    "Opacity which may reflect atelectasis, although pneumonia is possible.": "LO1 AT- PN-",
    "Possible trace effusions.": "PE-",
    "Concerning for pneumonia.": "PN-",
    "Atelectasis versus pneumonia.": "AT- PN-",
    "There may be a small left effusion.": "PE-",
    "Right basilar opacity, likely atelectasis.": "LO1 AT-",
    "Heart may be mildly enlarged.": "CM-",
    "Small effusions may be present.": "PE-",
    "Findings consistent with mild edema.": "ED1",
    "Either atelectasis or pneumonia.": "AT- PN-",
    "Likely edema with small effusion.": "ED- PE1",
    "Tube likely ends in the stomach.": "SD1",
    # heart, mediastinum, lungs as a whole
    "Heart size is normal.": "CM0",
    "The heart is not enlarged.": "CM0",
    "Normal heart size.": "CM0",
    "The cardiac silhouette remains moderately enlarged.": "CM1",
    "Heart size is borderline.": "CM-",
    "The cardiac, mediastinal and hilar contours are normal.": "CM0 EC0",
    "The cardiomediastinal silhouette is within normal limits.": "EC0",
    "The mediastinum is not widened.": "EC0",
    "Widening of the superior mediastinum.": "EC1",
    "The lungs are clear.": "LO0",
    "Mild congestive heart failure.": "CM- ED1",
    "No evidence of CHF.": "ED0",
    # words that only look like an observation
    "Pericardial effusion.": "",
    "Subcutaneous emphysema and soft tissue edema.": "",
    "Mass effect on the trachea. Lytic bone lesions.": "",
    "Sensitivity for pneumothorax is low.": "",
    "Trachea is midline. Normal alignment.": "",
    # other observations
    "Calcified pleural plaques and biapical scarring.": "PO1",
    "Pleural fluid or thickening at the apex.": "PE1 PO1",
    "Old healed rib fractures.": "FR1",
    "A 5 mm nodule in the right upper lobe.": "LL1",
    "Nodular opacity projecting over the left lung.": "LL1 LO1",
    "Left PICC and dual-lead pacemaker in place.": "SD1",
    "Pulmonary vascular congestion.": "ED1",
    "Small right hydropneumothorax.": "PE1 PT1",
}


def short(labels: dict[str, int | None]) -> str:
    signs = {1: "1", 0: "0", -1: "-"}
    found = ((k, labels[name]) for k, name in SHORT.items())
    return " ".join(sorted(k + signs[value] for k, value in found if value is not None))


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES.items())
def test_sentences(sentence: str, expected: str) -> None:
    assert short(LABELER.label(sentence)) == " ".join(sorted(expected.split()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No effusion. Small effusion on the left.", "PE1"),
        ("No effusion. Effusion cannot be excluded.", "PE-"),
        ("Possible effusion. Effusion is large.", "PE1"),
        ("Effusion is large. Possible effusion. No effusion.", "PE1"),
        ("No cardiomegaly. Heart failure.", "CM- ED1"),
        ("Cardiomegaly. Heart failure.", "CM1 ED1"),
    ],
)
def test_what_mentions_add_up_to(text: str, expected: str) -> None:
    assert short(LABELER.label(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The lungs are clear. No effusion.", 1),
        ("Endotracheal tube in place.", 1),
        ("Degenerative changes of the spine.", 1),
        ("Small effusion.", None),
        ("Pneumonia cannot be excluded.", None),
        ("", None),
        (" ___ 12:30\n", None),
    ],
)
def test_no_finding(text: str, expected: int | None) -> None:
    assert LABELER.label(text)["No Finding"] == expected


def test_likely_may_count_as_positive() -> None:
    text = "Likely atelectasis. Possible pneumonia. Probable edema."
    assert short(LABELER.label(text)) == "AT- ED- PN-"
    assert short(Labeler(likely="positive").label(text)) == "AT1 ED1 PN-"
    with pytest.raises(ConfigError, match="likely"):
        Labeler(likely="negative")  # type: ignore[arg-type]


def test_lists_by_number_and_lines_are_sentences() -> None:
    text = "1. No pneumothorax\n2. Small effusion\n\nCardiomegaly"
    assert short(LABELER.label(text)) == "CM1 PE1 PT0"
    assert short(LABELER.label("No pneumothorax\nor effusion")) == "PE0 PT0"
    # Neither a number with a point nor a title ends a sentence.
    assert short(LABELER.label("No nodule over 3.5 cm or, per Dr. X, mass.")) == "LL0"


def test_evidence_names_phrase_rule_and_sentence() -> None:
    found = LABELER.mentions("Lines in place.\nOpacity; pneumonia cannot be\nexcluded.")
    evidence = [(m.observation, m.status, m.phrase, m.rule, m.sentence) for m in found]
    assert evidence[-1] == (
        "Pneumonia",
        -1,
        "pneumonia",
        "cannot be excluded",
        "pneumonia cannot be excluded",
    )
    assert [m.rule for m in LABELER.mentions("Edema. Heart size is normal.")] == [
        "named",
        "statement",
    ]


WORDS = st.sampled_from(
    [*" ".join(SENTENCES).split(), "\n", "\n\n", "1.", "?", ";", "XXXX", "___", "é", "No"]
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=40).map(" ".join))


@settings(max_examples=150)
@given(st.lists(TEXTS, max_size=4))
def test_any_text_is_labelled_and_many_equal_one(texts: list[str]) -> None:
    many = LABELER.label_many(texts)
    assert many.shape == (len(texts), 14)
    assert many.dtype == np.float32
    for row, text in zip(many, texts, strict=True):
        one = LABELER.label(text)
        assert set(one) == set(CHEXPERT)
        for value, name in zip(row, CHEXPERT, strict=True):
            label = one[name]
            assert np.isnan(value) if label is None else value == label
        for mention in LABELER.mentions(text):
            assert one[mention.observation] is not None
            assert mention.phrase in mention.sentence


@given(TEXTS)
def test_case_and_line_breaks_do_not_matter(text: str) -> None:
    plain = " ".join(re.sub(r"[^ -~]", "", text).split())
    assert LABELER.label(plain) == LABELER.label(plain.upper())
    assert LABELER.label(plain) == LABELER.label(f"{plain}\n\n")


def test_a_text_that_repeats_itself_without_a_stop_is_no_trap() -> None:
    text = "no effusion, small edema is possible and " * 1000 + "no effusion"
    start = time.process_time()
    labels = LABELER.label(text)
    assert time.process_time() - start < 3  # each mention against each cue: 7 s
    assert (labels["Pleural Effusion"], labels["Edema"]) == (0, -1)


def test_no_rule_has_a_group_of_its_own() -> None:
    """Groups are counted to find the rule that matched."""
    patterns = [rule.pattern for rule in (*CUES, *MARKS, *STATEMENTS)]
    patterns += [pattern for phrase in PHRASES for pattern in phrase.patterns]
    assert all(re.compile(pattern).groups == 0 for pattern in patterns)
    named = {rule.observation for rule in (*PHRASES, *STATEMENTS)} - {None}
    assert named == set(CHEXPERT) - {"No Finding"}
