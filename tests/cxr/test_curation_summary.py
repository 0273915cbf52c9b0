"""What a curation page says, against small cases by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import write_index

from sagittal_core.errors import DataError
from sagittal_cxr.curation.page import write_page
from sagittal_cxr.curation.summary import by_column, by_reason, latest, prevalences, redundant


def decisions(rows: list[tuple[int, int, bool, str]]) -> pandas.DataFrame:
    return pandas.DataFrame(rows, columns=["row", "step", "kept", "reason"])


def test_a_pair_counts_once_and_as_kept_if_it_ever_was() -> None:
    table = decisions(
        [
            (7, 0, True, "support"),
            (3, 0, False, "outlier"),
            (7, 1, False, "redundant"),
            (3, 1, False, "redundant"),
            (5, 1, True, "central"),
            (5, 2, True, "support"),
        ]
    )
    found = latest(table)
    assert found.to_dict("list") == {
        "row": [3, 5, 7],
        "kept": [False, True, True],
        "reason": ["redundant", "support", "support"],
    }
    assert by_reason(found) == [("support", True, 2, 2 / 3), ("redundant", False, 1, 1 / 3)]


def test_columns_are_counted_with_what_is_not_known() -> None:
    kept = np.array([True, False, True, True])
    values = ["PA", "AP", None, float("nan")]
    assert by_column(values, kept) == [("not known", 2, 2), ("AP", 1, 0), ("PA", 1, 1)]


def test_a_group_of_n_has_n_minus_one_that_repeat_another() -> None:
    kept = np.array([True, True, False, True, False, True])
    assert redundant([4, 4, 4, 9, 2, 9], kept) == (3, 2)
    assert redundant([1, 2], np.array([False, False])) == (0, 0)


def test_prevalences_by_hand() -> None:
    positive = [["Mass", "Edema"], ["Mass"], ["Edema"], [], ["Edema"], ["Edema"], ["Hernia"], []]
    kept = np.array([True, True, True, False, False, False, False, True])
    patients = [f"p{n}" for n in range(8)]
    found = {one.name: one for one in prevalences(positive, kept, patients, below=3)}
    assert list(found) == ["findings under 3 positives (2)", "Hernia", "Mass", "Edema"]
    tail = found["findings under 3 positives (2)"]
    # Three of eight pairs have a finding of the tail, two of the four kept ones.
    assert (tail.positives, tail.kept, tail.share, tail.share_kept) == (3, 2, 3 / 8, 0.5)
    assert tail.ratio == pytest.approx(0.5 / (3 / 8))
    assert found["Edema"].ratio == pytest.approx(0.5 / 0.5)
    assert found["Hernia"].ratio == 0.0
    assert tail.low is tail.high is None  # of three patients


def test_a_finding_of_few_patients_has_no_interval() -> None:
    # Two patients with ten pairs that are all kept: every resample says nearly the same.
    rare = [["Hernia"] if n < 10 else ["Mass"] if n < 30 else [] for n in range(60)]
    kept = np.array([n < 10 or n % 2 == 0 for n in range(60)])
    patients = [str(n // 5) for n in range(10)] + [str(n) for n in range(10, 60)]
    hernia, mass = prevalences(rare, kept, patients, below=1)
    assert (hernia.name, hernia.positives, hernia.low, hernia.high) == ("Hernia", 10, None, None)
    assert mass.low is not None
    assert mass.low < mass.ratio < (mass.high or 0)
    # And one that nearly all patients have.
    common = [[] if n < 4 else ["Mass"] for n in range(60)]
    (one,) = prevalences(common, kept, [str(n) for n in range(60)], below=1)
    assert one.low is one.high is None


def test_few_patients_have_no_interval_and_nothing_kept_no_ratio() -> None:
    (one,) = prevalences([["Mass"], []], np.array([True, False]), ["a", "b"], below=1)
    assert one.low is one.high is None
    (one,) = prevalences([["Mass"], []], np.array([False, False]), ["a", "b"], below=1)
    assert math.isnan(one.ratio)
    assert prevalences([[], []], np.array([True, True]), ["a", "b"]) == []


def test_the_interval_is_over_patients_and_not_pairs() -> None:
    # The same pairs, of sixty patients or of twelve with five pairs each that are alike.
    positive = [["Mass"] if (n // 5) % 2 else [] for n in range(60)]
    kept = np.array([(n // 5) % 4 in (0, 1, 2) for n in range(60)])
    many = prevalences(positive, kept, [str(n) for n in range(60)], below=1)[0]
    few = prevalences(positive, kept, [str(n // 5) for n in range(60)], below=1)[0]
    assert many.ratio == few.ratio
    assert (few.high or 0) - (few.low or 0) > 1.5 * ((many.high or 0) - (many.low or 0))


def test_a_page_needs_decisions_over_rows_of_the_index(tmp_path: Path) -> None:
    import json

    from sagittal_cxr.index import RadiographIndex

    folder = write_index(tmp_path / "made")
    described = json.loads((folder / "index.json").read_text())
    described["counts"] |= {"files": 1, "labels": []}
    (folder / "index.json").write_text(json.dumps(described))
    index = RadiographIndex(folder)
    for table in (decisions([]), decisions([(31, 0, True, "support")])):
        with pytest.raises(DataError, match="decisions over rows 0 to 30"):
            write_page(tmp_path / "page.html", index, table, config={})
    # Nothing kept is a result like any other.
    dropped = decisions([(0, 0, False, "outlier"), (2, 0, False, "outlier")])
    figures = write_page(tmp_path / "page.html", index, dropped, config={})
    assert figures == {
        "pairs": 2.0,
        "kept": 0.0,
        "share": 0.0,
        "duplicates": 1.0,
        "duplicates kept": 0.0,
    }
    assert "0 of 2 pairs kept" in (tmp_path / "page.html").read_text()
