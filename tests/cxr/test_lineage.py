"""Row numbers go with the index that they are rows of, and with no other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import write_index

from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr import lineage
from sagittal_cxr.curation.ledger import Ledger
from sagittal_cxr.data import RadiographReports
from sagittal_cxr.tasks.task import Benchmark

ONE, OTHER = "a" * 64, "b" * 64


@pytest.mark.parametrize("identity", [ONE, None])
def test_a_folder_says_which_index_it_belongs_to(tmp_path: Path, identity: str | None) -> None:
    folder = tmp_path / "run"
    assert lineage.recorded(folder) is None
    lineage.record(folder, identity)
    assert lineage.recorded(folder) == identity
    lineage.expect(folder, identity, "index", "")
    with pytest.raises(DataError) as caught:
        lineage.expect(folder, OTHER, "outputs/index", "build it again")
    error = caught.value
    assert error.file == str(folder / "of_index.json")
    assert error.key == "index"
    assert error.expected == "the identity of outputs/index, bbbbbbbbbbbb"
    assert error.found.startswith("none" if identity is None else "aaaaaaaaaaaa:")
    assert error.hint == "build it again"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"index": 3}'])
def test_a_damaged_record_is_said_to_be(tmp_path: Path, text: str) -> None:
    (tmp_path / lineage.FILE).write_text(text)
    with pytest.raises(DataError, match="the file is damaged"):
        lineage.recorded(tmp_path)


def test_decisions_cannot_go_on_over_another_index(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "curation")
    ledger.begin(OTHER)
    ledger.begin(ONE)  # nothing was decided yet
    ledger.append(0, [0], [True], ["support"])
    Ledger(tmp_path / "curation").begin(ONE)
    with pytest.raises(DataError, match="the index was built anew"):
        Ledger(tmp_path / "curation").begin(OTHER)
    with pytest.raises(DataError, match="the identity of elsewhere"):
        Ledger(tmp_path / "curation").expect(OTHER, "elsewhere", "")
    old = Ledger(tmp_path / "old")
    old.append(0, [0], [True], ["support"])
    for check in (lambda: old.begin(ONE), lambda: old.expect(ONE, "index", "")):
        with pytest.raises(DataError, match="before identities were kept"):
            check()


def test_a_checkpoint_of_another_index_is_refused() -> None:
    data = RadiographReports("index")
    data.identity = ONE
    state = data.state_dict()
    data.load_state_dict(state)
    data.identity = OTHER
    with pytest.raises(DataError, match=r"RadiographReports\.index[\s\S]*found:    aaaaaaaaaaaa"):
        data.load_state_dict(state)


@pytest.mark.parametrize(
    ("split", "said", "shown"),
    [
        ("train", "unknown", "train"),
        ("train", "train", "train"),
        ("test", "unknown", "none"),
        ("val", "none", "none"),
        ("test", "train", "train"),
        ("test", {"m": "unknown"}, "none"),
    ],
)
def test_exposure_follows_from_the_index_that_a_model_was_trained_on(
    tmp_path: Path, split: str, said: str | dict[str, str], shown: str
) -> None:
    benchmark = Benchmark("b", write_index(tmp_path), split, said)  # type: ignore[arg-type]
    assert benchmark.for_model("m", "0" * 64).exposure == shown
    kept = said if isinstance(said, str) else "unknown"
    for trained_on in (None, ONE):  # nothing is known of it
        assert benchmark.for_model("m", trained_on).exposure == kept


@pytest.mark.parametrize("said", ["none", {"m": "none"}])
def test_rows_that_a_model_was_trained_on_are_not_new_to_it(
    tmp_path: Path, said: str | dict[str, str]
) -> None:
    benchmark = Benchmark("b", write_index(tmp_path), "train", said)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="benchmark b: exposure of m: expected train"):
        benchmark.for_model("m", "0" * 64)
    assert benchmark.for_model("other", ONE).exposure == (
        said if isinstance(said, str) else "unknown"
    )
