"""``sagittal-risk timelines``: a MEDS data set as a table that training takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from sagittal_risk.cli import run
from sagittal_risk.data import RiskRecords

pytestmark = pytest.mark.e2e
EVENTS = [
    (1, None, "SEX//F", None),
    (1, "2019-03-02T08:00", "SBP", 132.0),
    (1, "2019-03-02T09:00", "SMOKER", None),
    (1, "2020-01-01T00:00", "SBP", 140.0),
    (1, "2021-05-05T10:00", "MI", None),
    (2, "2020-06-01T12:00", "SBP", 118.5),
    (3, "2022-01-01T00:00", "SBP", 150.0),
]
MOMENTS = [(1, "2020-06-01", True), (2, "2020-12-31", False), (3, "2021-01-01", False),
           (1, "2019-06-01", False), (4, "2020-01-01", True)]  # fmt: skip


@pytest.fixture
def meds(tmp_path: Path) -> Path:
    folder = tmp_path / "meds"
    frame = pandas.DataFrame(EVENTS, columns=["subject_id", "time", "code", "numeric_value"])
    frame["time"] = pandas.to_datetime(frame["time"], format="ISO8601")
    for part, ids in (("train/0", [1]), ("held_out/0", [2, 3])):
        file = folder / "data" / f"{part}.parquet"
        file.parent.mkdir(parents=True)
        frame[frame["subject_id"].isin(ids)].to_parquet(file)
    (folder / "metadata").mkdir()
    pandas.DataFrame(
        {"code": ["SBP", "SMOKER"], "description": ["systolic blood pressure", None]}
    ).to_parquet(folder / "metadata" / "codes.parquet")
    pandas.DataFrame(
        {"subject_id": [1, 2, 3, 4], "split": ["train", "held_out", "tuning", "train"]}
    ).to_parquet(folder / "metadata" / "subject_splits.parquet")
    return folder


@pytest.fixture
def moments(tmp_path: Path) -> Path:
    file = tmp_path / "labels.csv"
    columns = ["subject_id", "prediction_time", "boolean_value"]
    pandas.DataFrame(MOMENTS, columns=columns).to_csv(file, index=False)
    return file


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_every_moment_has_what_was_before_it(
    name: str, meds: Path, moments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / name
    assert run(["timelines", str(meds), str(moments), "--out", str(out)]) == 0
    found = (pandas.read_parquet if name.endswith("parquet") else pandas.read_csv)(out)
    assert found["timeline"].fillna("").tolist() == [
        "SEX//F\n2019-03-02: systolic blood pressure 132, SMOKER"
        "\n2020-01-01: systolic blood pressure 140",
        "2020-06-01: systolic blood pressure 118.5",
        "",
        "SEX//F\n2019-03-02: systolic blood pressure 132, SMOKER",
        "",
    ]
    assert found["boolean_value"].tolist() == [1, 0, 0, 0, 1]
    assert found["split"].tolist() == ["train", "test", "val", "train", "train"]
    said = capsys.readouterr().out
    for line in ("5  moments\n", "4  subjects\n", "1  moments of subjects without any event",
                 "1  moments without an event before them", "3 train, 1 test, 1 val"):  # fmt: skip
        assert line in said


def test_training_reads_it(meds: Path, moments: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    assert run(["timelines", str(meds), str(moments), "--out", str(out), "--most", "1"]) == 0
    kept = pandas.read_parquet(out)
    kept[kept["timeline"] != ""].to_parquet(out)
    data = RiskRecords(str(out), [], "boolean_value", text_column="timeline")
    data.setup()
    prompts = [data.sets["train"][key][0] for key in _keys(len(data.sets["train"]))]
    assert "(1 earlier days left out)\n2020-01-01: systolic blood pressure 140" in prompts[0]


def _keys(count: int) -> list:
    from sagittal_core.sampling import ItemKey

    return [ItemKey(index, 0) for index in range(count)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("no events", "data/*.parquet"),
        ("no time", "prediction_time"),
        ("a word", "1 rows without, the first is row 2"),
        ("a column", "numeric_value"),
        ("a split", "1 moments whose subject has none"),
        ("twice", "a subject in one file of events"),
        ("kind", "neither .csv nor .parquet"),
    ],
)
def test_mistakes_are_named(
    change: str,
    words: str,
    meds: Path,
    moments: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, out = meds / "data" / "train" / "0.parquet", tmp_path / "t.parquet"
    if change == "no events":
        meds = tmp_path / "nothing"
    elif change == "no time":
        moments.write_text(moments.read_text().replace("prediction_time", "when"))
    elif change == "a word":
        moments.write_text(moments.read_text().replace("2020-12-31", "soon"))
    elif change == "a column":
        pandas.read_parquet(first).drop(columns="numeric_value").to_parquet(first)
    elif change == "a split":
        file = meds / "metadata" / "subject_splits.parquet"
        pandas.read_parquet(file).head(3).to_parquet(file)
    elif change == "twice":
        pandas.read_parquet(first).to_parquet(first.with_name("1.parquet"))
    else:
        out = tmp_path / "t.json"
    assert run(["timelines", str(meds), str(moments), "--out", str(out)]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_help_is_light() -> None:
    code = (
        "import sys; from sagittal_risk.cli import run\n"
        "assert run(['timelines', '--help']) == 0\n"
        "assert not {'torch', 'pandas', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
