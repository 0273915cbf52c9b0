"""Sections of reports: nothing is lost, headings in all their spellings, the policy's text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagittal_core.errors import DataError
from sagittal_cxr.reports.sections import SectionPolicy, comparisons, split_sections

REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough  // pneumonia?

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  ___

 FINDINGS:

 Heart size is normal.  Lungs are clear.
 Ratio 1: 2 is no heading.

 There is no pneumothorax.

 IMPRESSION:

 1. No acute process.
 2. Stable nodule, unchanged since the prior study.

 NOTIFICATION:  Dr. ___ was told.
"""
PIECES = [
    "FINDINGS:",
    "Impression: ",
    "\n",
    "\n\n",
    " \n \n",
    "COMPARISON:",
    "WET READ VERSION #1",
    "FINDINGS AND IMPRESSION:",
    "___",
    "AP CHEST, 5:39 A.M., ___",
    "The lungs are clear. ",
    "SUPINE FILM:",
    "\r\n",
    "HISTORY: cough",
    "final report",
]


def test_every_section_of_a_report() -> None:
    sections = split_sections(REPORT)
    assert sections.findings == (
        "Heart size is normal.  Lungs are clear.\n Ratio 1: 2 is no heading.\n\n"
        " There is no pneumothorax."
    )
    assert sections.impression is not None
    assert sections.impression.startswith("1. No acute")
    assert sections.indication == "___ year old woman with cough  // pneumonia?"
    assert (sections.comparison, sections.technique) == ("___", "Chest PA and lateral")
    assert sections.examination == "CHEST (PA AND LAT)"
    assert sections.other == (
        ("FINAL REPORT", ""),
        ("NOTIFICATION:", "Dr. ___ was told."),
    )
    assert sections.fallback is None


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=20)), max_size=12).map("".join))
def test_the_parts_are_the_report(text: str) -> None:
    sections = split_sections(text)
    assert "".join(part.heading + part.text for part in sections.parts) == text
    kept = [sections.findings, sections.impression, sections.indication, sections.comparison]
    kept += [sections.technique, sections.examination, sections.addendum, sections.preliminary]
    kept += [word for pair in sections.other for word in pair]
    everything = " ".join(part for part in kept if part)
    for part in sections.parts:
        assert part.text.strip() in everything


@pytest.mark.parametrize(
    "heading",
    ["FINDINGS:", "Findings:", "findings :", "FINDINGS", "Findings", "CHEST FINDINGS:"],
)
def test_spellings_of_a_heading(heading: str) -> None:
    sections = split_sections(f"INDICATION: cough.\n\n{heading}\nLungs are clear.")
    assert (sections.findings, sections.impression) == ("Lungs are clear.", None)


@pytest.mark.parametrize(
    "heading",
    ["FINDINGS AND IMPRESSION:", "FINDINGS/IMPRESSION:", "IMPRESSION AND FINDINGS:"],
)
def test_one_heading_for_both(heading: str) -> None:
    sections = split_sections(f"{heading} Lungs are clear.")
    assert sections.findings == sections.impression == "Lungs are clear."
    text = SectionPolicy().text(sections.findings, sections.impression)
    assert text == "Lungs are clear."


def test_headings_within_a_line_need_capitals_and_a_colon() -> None:
    sections = split_sections("INDICATION: Cough. FINDINGS: Clear. IMPRESSION: Normal.")
    assert (sections.findings, sections.impression) == ("Clear.", "Normal.")
    assert split_sections("FINDINGS: My findings: none.").findings == "My findings: none."


def test_text_after_an_introduction_is_no_part_of_it() -> None:
    report = "HISTORY: Fever.\n\nAs compared to ___.\n\nSmall effusion.\nNo edema."
    sections = split_sections(report)
    assert sections.indication == "Fever."
    assert (sections.findings, sections.fallback) == (
        "Small effusion.\nNo edema.",
        "last paragraph",
    )
    assert sections.other == (("", "As compared to ___."),)
    everything = split_sections(report, "all")
    assert everything.findings == "As compared to ___.\n\nSmall effusion.\nNo edema."
    nothing = split_sections(report, "none")
    assert nothing.findings is None
    assert ("", "Small effusion.\nNo edema.") in nothing.other


def test_without_headings_the_last_paragraph_stands_in() -> None:
    sections = split_sections("PORTABLE CHEST, ___\n \n Tubes in place. No edema.\n ___________ \n")
    assert sections.findings is not None
    assert sections.findings.startswith("Tubes in place.")
    assert split_sections("").findings is None
    assert split_sections("  \n\n ____________").findings is None


def test_a_wet_read_stands_in_only_for_a_missing_report() -> None:
    wet = "WET READ: ___ 3:50 AM\n Small effusion.\n"
    assert "Small effusion." in (split_sections(wet).findings or "")
    final = split_sections(wet + "FINAL REPORT\nFINDINGS: No effusion.")
    assert final.findings == "No effusion."
    assert "Small effusion." in (final.preliminary or "")


def test_an_addendum_is_kept_apart() -> None:
    sections = split_sections("FINDINGS: Clear.\n\nADDENDUM: A nodule was seen.\n")
    assert (sections.findings, sections.addendum) == ("Clear.", "A nodule was seen.")


@pytest.mark.parametrize(
    ("use", "text", "without_impression"),
    [
        ("findings+impression", "A. B.", "A."),
        ("findings", "A.", "A."),
        ("impression", "B.", ""),
        ("findings else impression", "A.", "A."),
        ("impression else findings", "B.", "A."),
    ],
)
def test_policies(use: str, text: str, without_impression: str) -> None:
    policy = SectionPolicy(use)  # type: ignore[arg-type]
    assert policy.text(" A.\n", "B.") == text
    assert policy.text("A.", None) == without_impression
    assert policy.text(None, None) == ""


def test_numbering_is_kept_unless_asked() -> None:
    impression = "1. No edema.\n2) Nodule of 5 mm, 3.5 cm apart. (3) End - of list."
    assert SectionPolicy().text(None, impression).startswith("1. No edema. 2) Nodule")
    stripped = SectionPolicy(strip_numbering=True).text(None, impression)
    assert stripped == "No edema. Nodule of 5 mm, 3.5 cm apart. End of list."


def test_a_policy_reads_whole_reports() -> None:
    policy = SectionPolicy("impression", strip_numbering=True)
    assert policy.of_report(REPORT).startswith("No acute process. Stable nodule")
    assert policy.of_report("Chest.\n\nNo edema.") == "No edema."


def test_identities_differ_where_choices_do() -> None:
    policies = [
        SectionPolicy(),
        SectionPolicy("impression"),
        SectionPolicy(fallback="all"),
        SectionPolicy(strip_numbering=True),
    ]
    assert len({policy.identity for policy in policies}) == len(set(policies)) == 4
    assert SectionPolicy().identity == SectionPolicy("findings+impression").identity


def test_a_wrong_policy_names_the_choices() -> None:
    with pytest.raises(DataError, match=r"findings\+impression[\s\S]*'both'"):
        SectionPolicy("both")  # type: ignore[arg-type]


def test_comparisons_are_found_and_left_in_place() -> None:
    text = "As compared to ___, no relevant change. Effusion has decreased since the\nprior study."
    assert comparisons(text) == [
        "As compared to",
        "no relevant change",
        "decreased",
        "since the prior",
    ]
    assert comparisons("Small effusion.") == []
