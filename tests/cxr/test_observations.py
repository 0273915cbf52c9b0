"""The 14 observations: spellings, and what labels of other sets say in their terms."""

from __future__ import annotations

import pytest

from sagittal_core.errors import DataError
from sagittal_cxr.reports.observations import ALIASES, CHEXPERT, MAPPINGS, canonical, to_chexpert

NIH = [
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
]


def test_order_and_aliases_are_those_of_chexpert() -> None:
    assert len(CHEXPERT) == len(set(CHEXPERT)) == 14
    assert (CHEXPERT[0], CHEXPERT[-1]) == ("No Finding", "Support Devices")
    assert set(ALIASES) == set(CHEXPERT)


@pytest.mark.parametrize(
    ("name", "observation"),
    [
        ("pleural_effusion", "Pleural Effusion"),
        ("Effusions", "Pleural Effusion"),
        ("Airspace-Opacity", "Lung Opacity"),
        ("LUNG OPACITIES", "Lung Opacity"),
        ("no  finding", "No Finding"),
    ],
)
def test_spellings(name: str, observation: str) -> None:
    assert canonical(name) == observation


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"No Finding[\s\S]*'Hernia'"):
        canonical("Hernia")
    with pytest.raises(DataError, match="chexpert, nih, vindr, padchest"):
        to_chexpert({}, "siim")


def test_nih_labels_in_terms_of_chexpert() -> None:
    labels = dict.fromkeys(NIH, 0) | {"No Finding": 0, "Nodule": 1, "Hernia": 1}
    mapped, left = to_chexpert(labels, "nih")
    assert left == ["Emphysema", "Fibrosis", "Hernia"]
    assert mapped["Lung Lesion"] == 1
    assert mapped["Pleural Effusion"] == mapped["Edema"] == 0
    # Absent infiltration or thickening does not make the wider observation absent.
    assert "Lung Opacity" not in mapped
    assert "Pleural Other" not in mapped
    assert "Fracture" not in mapped
    assert to_chexpert({"Pleural Thickening": 1}, "nih").labels == {"Pleural Other": 1}


def test_absence_needs_all_names_and_presence_beats_doubt() -> None:
    assert to_chexpert({"Mass": 0}, "nih").labels == {}
    assert to_chexpert({"Mass": 0, "Nodule": 0}, "nih").labels == {"Lung Lesion": 0}
    assert to_chexpert({"Mass": -1, "Nodule": 0}, "nih").labels == {"Lung Lesion": -1}
    assert to_chexpert({"Mass": -1, "Nodule": 1}, "nih").labels == {"Lung Lesion": 1}
    vindr = to_chexpert({"Lung Opacity": 0, "Infiltration": 1, "Aortic enlargement": 1}, "vindr")
    assert vindr == ({"Lung Opacity": 1}, ["Aortic enlargement"])


def test_every_row_names_an_observation_and_incomplete_rows_their_reason() -> None:
    for rows in MAPPINGS.values():
        assert {row.observation for row in rows} <= set(CHEXPERT)
        assert all(row.names for row in rows)
    assert {row.observation for row in MAPPINGS["padchest"]} == set(CHEXPERT)


def test_chexpert_itself_is_only_respelled() -> None:
    assert to_chexpert({"edema": -1, "Airspace Opacity": 1}, "chexpert").labels == {
        "Edema": -1,
        "Lung Opacity": 1,
    }
