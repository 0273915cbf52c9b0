"""Journals survive kills, tokens are marked where they lie, summaries are read or refused."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from concept_data import make

from sagittal_core.errors import ConfigError, DataError
from sagittal_genai.concepts.explained import Explained, Named
from sagittal_genai.concepts.features import Feature, Top
from sagittal_genai.concepts.gallery import Card, Page, write_gallery
from sagittal_genai.concepts.journal import Journal, begin
from sagittal_genai.concepts.thumbnails import Pictures
from sagittal_genai.slices.folder import FolderWriter


@pytest.mark.parametrize("kept", range(0, 60, 7))
def test_a_journal_cut_anywhere_keeps_the_whole_lines(tmp_path: Path, kept: int) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    for number in range(3):
        journal.append({"feature": number, "name": "é" * number})
    data = journal.file.read_bytes()
    journal.file.write_bytes(data[:kept])
    again = Journal(journal.file)
    assert sorted(again.records) == list(range(data[:kept].count(b"\n")))
    again.append({"feature": 9, "name": None})
    assert sorted(Journal(journal.file).records) == [*sorted(again.records)]


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").write_text('{"feature": 1}\nnonsense\n{"feature": 2}\n')
    with pytest.raises(DataError, match="line 2"):
        Journal(tmp_path / "j.jsonl")


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    held = begin(tmp_path, {"seed": 0}, fresh=False)
    code = (
        "import sys; from pathlib import Path; from sagittal_genai.concepts.journal import begin\n"
        "begin(Path(sys.argv[1]), {'seed': 0}, False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    held.release()
    assert "another process is writing" in done.stderr


def test_fresh_removes_the_records_and_nothing_else(tmp_path: Path) -> None:
    begin(tmp_path, {"seed": 0}, fresh=False).release()
    Journal(tmp_path / "names.jsonl").append({"feature": 1})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="another seed"):
        begin(tmp_path, {"seed": 1}, fresh=False)
    begin(tmp_path, {"seed": 1}, fresh=True).release()
    assert not (tmp_path / "names.jsonl").exists()
    assert (tmp_path / "notes.txt").exists()


def folder(path: Path, shape: tuple[int, int]) -> tuple[Path, str]:
    writer = FolderWriter(path, {"made": "test"}, {})
    pixels = np.full(shape, 100, np.uint8)
    name = writer.picture("images", "scan", "axial-0000", pixels)
    writer.describe(scans=1)
    return path, name


def test_a_token_is_marked_where_it_lies(tmp_path: Path) -> None:
    path, name = folder(tmp_path / "s", (30, 40))
    index = pandas.DataFrame(
        {"image": [name, name], "token": [5, -1], "grid_h": [3, 3], "grid_w": [4, 4]}
    )
    pictures = Pictures(path, index)
    marked = np.asarray(pictures.image(0, 400)).astype(int)
    assert marked.shape == (300, 400, 3)
    amber = np.argwhere(marked[..., 0] - marked[..., 2] > 100)  # row 1, column 1 of 3 x 4
    assert amber.min(0).tolist() == [100, 100]
    assert amber.max(0).tolist() == [199, 199]
    plain = np.asarray(pictures.image(1, 400))
    assert (plain == 100).all()
    sent = Image.open(io.BytesIO(pictures.png(0, 64)))
    assert (sent.format, sent.size) == ("PNG", (64, 48))


@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "images/../../x.png"])
def test_pictures_outside_the_folder_are_not_read(tmp_path: Path, name: str) -> None:
    path, _ = folder(tmp_path / "s", (8, 8))
    with pytest.raises(DataError, match="inside the folder"):
        Pictures(path, pandas.DataFrame({"image": [name]})).image(0, 32)


def test_the_gallery_stays_below_its_limit(tmp_path: Path) -> None:
    made = make(tmp_path / "data")
    pictures = Pictures(made.slices, made.index)
    top = Top(np.arange(5), np.ones(5), 5)
    cards = [Card(Feature(i, 0.1, 1, 1, 5, 0.5, top, top, top), "liver") for i in range(20)]
    sizes = {}
    for limit in (20.0, 0.12, 0.0):
        file = tmp_path / f"{limit}.html"
        sizes[limit] = write_gallery(file, Page("t", "l"), cards, pictures, limit_mb=limit)
        text = file.read_text()
        assert file.stat().st_size == sizes[limit]
        assert sum(map(len, text.split('src="')[1:])) < limit * 1e6 + 20_000
    assert sizes[20.0] > sizes[0.12] > sizes[0.0]
    assert "0 pictures are embedded" in (tmp_path / "0.0.html").read_text()


def test_summaries_are_read_back(tmp_path: Path) -> None:
    features = [Named(3, "liver", "liver axial", 1.5, 1), Named(4, None, "", 0.5, None)]
    features += [Named(5, "heart", "", 1.0, 3), Named(6, "lung", "", 1.0, None)]
    written = Explained("s", "c", None, ["organs"], "test", features)
    written.write(tmp_path)
    found = Explained.read(tmp_path)
    assert found == written
    assert list(found.searchable()) == [3, 6]  # not the unnamed one, nor the one of rank 3


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2}', '{"version": 1, "features": [1]}'])
def test_a_damaged_summary_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "explained.json").write_text(text)
    with pytest.raises(DataError, match=r"explained\.json"):
        Explained.read(tmp_path)
