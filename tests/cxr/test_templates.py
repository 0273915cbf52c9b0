"""Pseudo-reports: they say what the labels say, the same for the same record."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagittal_cxr.reports.labeler import Labeler
from sagittal_cxr.reports.observations import CHEXPERT
from sagittal_cxr.reports.templates import ABNORMAL, NEGATIVES, NORMAL, POSITIVES, pseudo_report

LABELER = Labeler()
LABELS = st.dictionaries(st.sampled_from(CHEXPERT[1:]), st.sampled_from([1, 0, -1]), max_size=14)


def said(labels: Mapping[str, int], key: str = "nih/1.png") -> str:
    return pseudo_report(labels, seed=3, key=key)


def test_without_labels_there_is_no_text() -> None:
    assert said({}) == ""


def test_no_finding_is_said_unless_something_was_found() -> None:
    assert said({"No Finding": 1}) in NORMAL
    assert said({"No Finding": 0}) in ABNORMAL
    text = said({"No Finding": 1, "Cardiomegaly": 1})
    assert "ardiomegaly" in text
    assert not any(normal in text for normal in NORMAL)


@pytest.mark.parametrize(
    ("name", "words"),
    [("Pleural_Thickening", "leural thickening"), ("Effusion", "leural effusion"), ("ILD", "lung")],
)
def test_names_of_other_sets_read_as_words(name: str, words: str) -> None:
    assert words in said({name: 1})


@given(labels=LABELS, key=st.text(min_size=1), seed=st.integers(0, 2**31))
def test_the_same_record_gets_the_same_text(labels: dict[str, int], key: str, seed: int) -> None:
    text = pseudo_report(labels, seed=seed, key=key)
    assert text == pseudo_report(dict(reversed(labels.items())), seed=seed, key=key)
    spoken = sum(value != 0 for value in labels.values())
    absent = min(3, len(labels) - spoken)
    assert text.count(".") == spoken + absent
    assert text == text.strip()
    assert "{" not in text


@given(labels=LABELS, key=st.text(min_size=1))
def test_the_labeler_reads_the_labels_back(labels: dict[str, int], key: str) -> None:
    # It takes no device for uncertain: reports hedge on where a device ends.
    labels = {k: v for k, v in labels.items() if (k, v) != ("Support Devices", -1)}
    text = pseudo_report(labels, seed=0, key=key, max_negatives=14)
    found = {k: v for k, v in LABELER.label(text).items() if v is not None and k != "No Finding"}
    assert found == labels


def test_all_wordings_are_used_over_records() -> None:
    texts = {said({"Edema": 1}, key=str(number)) for number in range(100)}
    assert len(texts) == len(POSITIVES)
    assert len({said({"Edema": 0}, key=str(number)) for number in range(100)}) == len(NEGATIVES)


def test_absent_findings_are_limited_and_drawn() -> None:
    labels = dict.fromkeys(CHEXPERT[1:], 0)
    few = pseudo_report(labels, seed=0, key="a", max_negatives=2)
    assert few.count(".") == 2
    assert pseudo_report(labels, seed=0, key="a", max_negatives=0) == ""
    assert len({pseudo_report(labels, seed=0, key=str(n)) for n in range(20)}) > 10
