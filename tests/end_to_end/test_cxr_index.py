"""``sagittal-cxr index``: every configuration on tiny data sets, kills, refusals, reruns."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "cxr"))

import published

from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr.cli import run
from sagittal_cxr.images import load_grey
from sagittal_cxr.index import RadiographIndex
from sagittal_cxr.masks import load_mask

pytestmark = pytest.mark.e2e
CONFIGS = Path(__file__).parents[2] / "packages" / "cxr" / "configs"
COLUMNS = ["dataset", "image", "patient", "study", "view", "split", "sex", "age", "findings"]
COLUMNS += ["impression", "text", "text_source", "positive", "negative", "uncertain", "boxes"]
COLUMNS += ["mask", "width", "height", "duplicate_of"]


def index(settings: dict, folder: Path) -> int:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return run(["index", "-c", str(file)])


def config(name: str, folder: Path, **changes: object) -> dict:
    """A shipped configuration, its data sets laid out under ``folder``."""
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    for dataset in settings["datasets"]:
        root = folder / dataset["name"]
        make = published.ALL.get(dataset["reader"])
        if make is not None:
            dataset["root"] = str(make(root))
    return settings | {"out": str(folder / "out"), "workers": 0} | changes


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def names() -> list[str]:
    return sorted(p.stem for p in CONFIGS.glob("index_*.yaml") if p.stem != "index_sample")


@pytest.mark.parametrize("name", names())
def test_shipped_configurations(name: str, tmp_path: Path) -> None:
    settings = config(name, tmp_path)
    assert index(settings, tmp_path) == 0
    made = RadiographIndex(tmp_path / "out")
    frame = made.frame()
    assert list(frame.columns) == COLUMNS
    assert list(frame.index) == list(range(len(made)))
    assert set(frame["dataset"]) == {d["name"] for d in settings["datasets"]}
    assert frame.groupby("patient")["split"].nunique().max() == 1
    wordless = {d["name"] for d in settings["datasets"] if d.get("text") == "none"}
    assert ((frame["text"] == "") == frame["dataset"].isin(wordless)).all()
    for row in range(len(made)):
        grey = load_grey(made.image_path(row))
        assert grey.shape == (frame["height"][row], frame["width"][row])
    report = (tmp_path / "out" / "report.html").read_text()
    assert str(tmp_path) not in report
    assert "<img" not in report or report.count("<img") == 1  # the chart: no one's picture


def sample(folder: Path) -> dict:
    """index_sample.yaml with pictures of noise; one is damaged, one missing, one twice the same."""
    random = np.random.default_rng(0)
    rows = []
    for n in range(16):
        file = published.picture(folder / "nih/images" / f"{n}.jpg", n)
        findings = ["No Finding", "Pleural_Thickening|Mass", ""][n % 3]
        rows.append([file.name, findings, 0, n // 2, 30 + n, "MF"[n % 2], ["PA", "AP"][n % 2]])
    head = "image,finding_labels,follow_up,patient_id,patient_age,patient_sex,view_position"
    pandas.DataFrame(rows, columns=head.split(",")).to_csv(folder / "nih/labels.csv", index=False)
    (folder / "nih/images/3.jpg").write_bytes(b"no picture")
    (folder / "nih/images/4.jpg").unlink()
    (folder / "nih/images/7.jpg").write_bytes((folder / "nih/images/6.jpg").read_bytes())
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(folder / "nih/images/9.jpg")
    rows = []
    for n in range(3):
        published.picture(folder / f"lungs/images/a{n}.jpg", 100 + n)
        mask = random.integers(0, 2, (24, 20), dtype=np.uint8) * 255
        (folder / "lungs/masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / f"lungs/masks/a{n}.png")
        rows.append([f"a{n}", 200 + n, "COVID-19", "AP Supine", "x", "y"])
    head = "file,patient_id,finding,view,license,source_url"
    pandas.DataFrame(rows, columns=head.split(",")).to_csv(folder / "lungs/index.csv", index=False)
    settings = yaml.safe_load((CONFIGS / "index_sample.yaml").read_text())
    return settings | {"out": str(folder / "out"), "workers": 0}


def test_the_sample_by_roots_on_the_command_line(tmp_path: Path) -> None:
    sample(tmp_path)
    out = tmp_path / "out"
    args = ["index", "-c", str(CONFIGS / "index_sample.yaml"), "--out", str(out)]
    roots = [f"--roots.{name}={tmp_path / name}" for name in ("nih", "lungs")]
    assert run([*args, *roots, "--workers=0", "--log_images=true"]) == 0
    made = RadiographIndex(out)
    frame = made.frame()
    refused = {row["file"]: row["why"] for row in table(out / "refused.csv")}
    assert refused == {
        "images/3.jpg": "unreadable image: image: expected a readable picture,"
        " UnidentifiedImageError",
        "images/4.jpg": "missing image: no such file",
        "images/9.jpg": "unreadable image: pixels: all of one level",
        # 2, 5, ..: nothing to say of them
        **{
            f"images/{n}.jpg": "no labels: nothing to write a pseudo-report from"
            for n in (2, 5, 8, 11, 14)
        },
    }
    assert len(frame) == 16 - 8 + 3
    seven = frame.index[frame["image"] == "images/7.jpg"][0]
    six = frame.index[frame["image"] == "images/6.jpg"][0]
    assert frame["duplicate_of"][seven] == six
    assert (frame["duplicate_of"] >= 0).sum() == 1
    assert frame["positive"][six] == ["No Finding"]
    assert "Pleural Thickening" in made.labels()
    assert frame["patient"][six] == "nih/3"
    lungs = frame[frame["dataset"] == "lungs"]
    mask = load_mask(lungs["mask"].iloc[0], made.root("lungs"))
    assert mask.shape == (24, 20)
    assert frame["mask"][six] is None
    assert (out / "report.html").read_text().count("<img") == 2
    with pytest.raises(DataError, match="dataset"):
        made.root("none")
    assert made.image_path(np.int64(six)) == tmp_path / "nih/images/6.jpg"
    for row in (len(made), -1):
        with pytest.raises(IndexError):
            made.image_path(row)


def test_again_repaired_and_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = sample(tmp_path)
    settings["roots"] = {name: str(tmp_path / name) for name in ("nih", "lungs")}
    assert index(settings, tmp_path) == 0
    out = tmp_path / "out"
    first = RadiographIndex(out)
    rows = (out / "rows-00000.parquet").stat().st_mtime_ns
    checks = {f: f.stat().st_mtime_ns for f in (out / "checks").iterdir()}
    assert index(settings, tmp_path) == 0
    assert RadiographIndex(out).identity == first.identity
    assert (out / "rows-00000.parquet").stat().st_mtime_ns == rows
    assert {f: f.stat().st_mtime_ns for f in (out / "checks").iterdir()} == checks
    # A repaired picture comes in, and the identity changes; moved data keep theirs.
    published.picture(tmp_path / "nih/images/3.jpg", 3)
    assert index(settings, tmp_path) == 0
    repaired = RadiographIndex(out)
    assert len(repaired) == len(first) + 1
    assert repaired.identity != first.identity
    (tmp_path / "nih").rename(tmp_path / "moved")
    settings["roots"]["nih"] = str(tmp_path / "moved")
    assert index(settings, tmp_path) == 0
    moved = RadiographIndex(out)
    assert moved.identity == repaired.identity
    assert str(moved.image_path(0)).startswith(str(tmp_path / "moved"))
    capsys.readouterr()
    for change, said in (
        ({"sections": {"use": "impression"}}, "another sections"),
        ({"split": {"seed": 1}}, "another split"),
        ({"check": "header", "duplicates": "none"}, "another duplicates"),
        ({"duplicates": "pairs", "check": "exists"}, "needs check: pixels"),
        ({"roots": {"nhi": "x"}}, "roots names nhi"),
        ({"split": {"val_share": 0.9, "test_share": 0.2}}, "shares"),
    ):
        assert index(settings | change, tmp_path) == 2
        assert said in capsys.readouterr().err
    assert index(settings | {"out": str(tmp_path / "lungs")}, tmp_path) == 2
    assert "not empty and no index" in capsys.readouterr().err


def test_policy_and_identity(tmp_path: Path) -> None:
    """The same reports under another policy are another index; an empty text is listed."""
    texts = {}
    for use in ("findings+impression", "impression", "findings"):
        folder = tmp_path / use.replace("+", "-")
        folder.mkdir()
        settings = config("index_mimic_cxr", folder, sections={"use": use})
        assert index(settings, folder) == 0
        made = RadiographIndex(folder / "out")
        assert made.description["sections"]["use"] == use
        texts[use] = made.frame(["text", "impression"]), made.identity
        refused = table(folder / "out" / "refused.csv")
        assert all(row["why"].startswith("empty report: nothing under") for row in refused)
        # One study has no report; two pictures have one without an impression.
        assert len(refused) == (3 if use == "impression" else 1)
    assert len({identity for _, identity in texts.values()}) == 3
    both = texts["findings+impression"][0]["text"][0]
    assert both == (
        "The heart is large. There is a small left effusion. Cardiomegaly and effusion."
    )
    assert texts["impression"][0]["text"][0] == "Cardiomegaly and effusion."


def test_text_rules(tmp_path: Path) -> None:
    settings = config("index_mimic_cxr", tmp_path)
    settings["datasets"][0]["text"] = "report else template"
    (tmp_path / "mimic/reports/files/p10/p10000032/s50414267.txt").unlink()
    assert index(settings, tmp_path) == 0
    frame = RadiographIndex(tmp_path / "out").frame()
    assert list(frame["text_source"]) == ["template", "report", "report", "report"]
    assert "cardiomegaly" in frame["text"][0].lower()
    (refused,) = table(tmp_path / "out" / "refused.csv")
    assert refused["why"] == "neither report nor labels: no text"


def test_an_official_split_that_parts_a_patient_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config("index_nih", tmp_path)
    file = tmp_path / "nih/test_list.txt"
    moved = file.read_text() + "\n00000001_001.png"
    file.write_text(moved)
    lines = (tmp_path / "nih/train_val_list.txt").read_text().split()
    (tmp_path / "nih/train_val_list.txt").write_text("\n".join(lines[::2]))
    assert index(settings, tmp_path) == 2
    said = capsys.readouterr().err
    assert "1 of 3 patients in two or more" in said
    assert "00000001" not in said
    file.write_text("")
    settings["datasets"][0]["split"] = "official"
    settings["out"] = str(tmp_path / "out2")
    assert index(settings, tmp_path) == 2
    assert "says no split of 2 of 4 rows" in capsys.readouterr().err
    settings["datasets"][0]["split"] = "patients"
    settings["out"] = str(tmp_path / "out3")
    assert index(settings, tmp_path) == 0


def test_nothing_usable_and_a_wrong_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config("index_nih", tmp_path)
    (tmp_path / "nih/BBox_List_2017.csv").unlink()
    for file in (tmp_path / "nih").rglob("*.png"):
        file.unlink()
    assert index(settings, tmp_path) == 2
    said = capsys.readouterr().err
    assert "at least one that can be used" in said
    assert "missing image" in said
    with pytest.raises(DataError, match="not finished"):
        RadiographIndex(tmp_path / "out")
    settings["datasets"][0]["reader"] = "nhi"
    assert index(settings | {"out": str(tmp_path / "other")}, tmp_path) == 2
    assert "did you mean 'nih'" in capsys.readouterr().err
    with pytest.raises(DataError, match="no index"):
        RadiographIndex(tmp_path)


@pytest.mark.slow
def test_killed_in_the_middle_equals_undisturbed(tmp_path: Path) -> None:
    """SIGKILL while workers check pictures; the same command at once goes on."""
    (tmp_path / "big/images").mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = []
    for n in range(64 * 6):
        pixels = random.integers(0, 65536, (300, 300), dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"big/images/{n}.png", compress_level=1)
        rows.append([f"{n}.png", n // 3, "Mass" if n % 2 else "No Finding"])
    (tmp_path / "big/images/77.png").write_text("no picture")
    frame = pandas.DataFrame(rows, columns=["image", "patient", "found"])
    frame.to_csv(tmp_path / "big/t.csv", index=False)
    options = {"table": "t.csv", "folder": "images", "labels": "found"}
    dataset = {"name": "big", "reader": "table", "root": str(tmp_path / "big"), "options": options}
    settings = {"datasets": [dataset], "check": "pixels", "duplicates": "pixels", "workers": 2}
    (tmp_path / "whole").mkdir()
    whole = settings | {"out": str(tmp_path / "whole/out"), "workers": 0}
    assert index(whole, tmp_path / "whole") == 0
    file, script, out = tmp_path / "config.yaml", tmp_path / "main.py", tmp_path / "out"
    file.write_text(yaml.safe_dump(settings | {"out": str(out)}))
    script.write_text(
        "from sagittal_cxr.cli import main\n\nif __name__ == '__main__':\n    main()\n"
    )
    command = [sys.executable, str(script), "index", "-c", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(6000):
                if len(list(out.glob("checks/pixels-*.json"))) >= 2 or process.poll() is not None:
                    break
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    there = {f: f.stat().st_mtime_ns for f in out.glob("checks/pixels-*.json")}
    assert 2 <= len(there) < 6
    assert (out / "parts/big.parquet").is_file()
    with pytest.raises(DataError, match="not finished"):
        RadiographIndex(out)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {f: f.stat().st_mtime_ns for f in there} == there, "checked twice"
    assert not (out / "parts").exists()
    resumed, undisturbed = RadiographIndex(out), RadiographIndex(tmp_path / "whole/out")
    assert resumed.identity == undisturbed.identity
    assert len(resumed) == 64 * 6 - 1
    pandas.testing.assert_frame_equal(resumed.frame(), undisturbed.frame())
    assert (out / "refused.csv").read_text() == (tmp_path / "whole/out/refused.csv").read_text()


def test_rows_read_before_a_kill_are_not_read_again_unless_the_table_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sagittal_cxr import indexing
    from sagittal_cxr.readers.nih import NIH

    settings = config("index_nih", tmp_path)
    reads = []
    original = NIH.read

    def counted(self: NIH, root: Path) -> object:
        reads.append(root)
        return original(self, root)

    def fail(*_: object) -> None:
        raise ConfigError("stopped")

    monkeypatch.setattr(NIH, "read", counted)
    monkeypatch.setattr(indexing, "_checked", fail)
    assert index(settings, tmp_path) == 2
    assert index(settings, tmp_path) == 2
    assert len(reads) == 1
    table = tmp_path / "nih/Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("Hernia", "Edema"))
    monkeypatch.undo()
    monkeypatch.setattr(NIH, "read", counted)
    assert index(settings, tmp_path) == 0
    assert len(reads) == 2
    assert "Edema" in [n for p in RadiographIndex(tmp_path / "out").frame()["positive"] for n in p]


def test_two_commands_on_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    settings = config("index_nih", tmp_path)
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        assert index(settings, tmp_path) == 2
    assert "another process is writing" in capsys.readouterr().err


def test_damaged_indices_are_named(tmp_path: Path) -> None:
    assert index(config("index_nih", tmp_path), tmp_path) == 0
    out = tmp_path / "out"
    made = RadiographIndex(out)
    with pytest.raises(DataError, match=r"key:      pixels[\s\S]*dataset, image"):
        made.frame(["pixels"])
    (out / "rows-00000.parquet").unlink()
    with pytest.raises(DataError, match="no such file"):
        made.frame()
    described = json.loads((out / "index.json").read_text())
    (out / "index.json").write_text(json.dumps(described | {"version": 99}))
    with pytest.raises(DataError, match="version"):
        RadiographIndex(out)
    (out / "index.json").write_text("{}")
    with pytest.raises(DataError, match="an index's description"):
        RadiographIndex(out)


def test_damaged_descriptions_stop_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config("index_nih", tmp_path)
    assert index(settings, tmp_path) == 0
    for name, hint in (("index.json", "remove this file"), ("settings.json", "remove this folder")):
        (tmp_path / "out" / name).write_text("{")
        assert index(settings, tmp_path) == 2
        said = capsys.readouterr().err
        assert f"cannot use {tmp_path / 'out' / name}" in said
        assert hint in said
        if name == "index.json":
            (tmp_path / "out" / name).unlink()
            assert index(settings, tmp_path) == 0


def test_another_part_of_the_body_is_noted(tmp_path: Path) -> None:
    settings = config("index_nih", tmp_path)
    root = tmp_path / "other"
    rows = ["hand.dcm,1,FINDINGS: Clear.", "chest.dcm,2,FINDINGS: Clear.", "odd.dcm,3,FINDINGS: x."]
    published.write(root / "t.csv", "\n".join(["image,patient,report", *rows]))
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    for name, part in (("hand", "HAND"), ("chest", "CHEST"), ("odd", None)):
        tags = {} if part is None else {"BodyPartExamined": part}
        scan = published.dataset(pixels, "DX", **tags)
        published.save(scan, root / f"{name}.dcm")
    options = {"table": "t.csv", "report": "report"}
    settings["datasets"] = [{"name": "o", "reader": "table", "root": str(root), "options": options}]
    for check in ("header", "pixels"):
        settings |= {"check": check, "out": str(tmp_path / check)}
        assert index(settings, tmp_path) == 0
        assert (tmp_path / check / "notes.csv").read_text().splitlines() == [
            "dataset,file,note",
            "o,hand.dcm,body part HAND",
        ]
        page = (tmp_path / check / "report.html").read_text()
        assert "noted as &#x27;body part HAND&#x27;: 1" in page


def test_help_is_light_and_names_every_option() -> None:
    code = (
        "import sys\nfrom sagittal_cxr.cli import run\nstatus = run(['index', '--help'])\n"
        "heavy = {'torch', 'lightning', 'numpy', 'pandas', 'jsonargparse'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    for option in ("datasets", "--out", "--sections", "--split", "--check", "--roots", "--workers"):
        assert option in done.stdout


@pytest.mark.study
def test_a_hundred_thousand_rows_take_less_than_half_a_minute(tmp_path: Path) -> None:
    n = 100_000
    frame = pandas.DataFrame(
        {
            "image": [f"{k}.png" for k in range(n)],
            "patient": [k // 3 for k in range(n)],
            "findings": [
                f"The heart is large. Opacity {k} of the left lower lobe." for k in range(n)
            ],
            "impression": [f"Pneumonia {k % 777}." for k in range(n)],
            "found": ["No Finding", "Mass|Edema"] * (n // 2),
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = {"table": "t.csv", "findings": "findings", "impression": "impression"}
    options |= {"labels": "found", "names": ["Mass", "Edema", "Effusion"]}
    dataset = {"name": "rows", "reader": "table", "root": str(tmp_path), "options": options}
    for text in ("report", "template"):
        out = tmp_path / text
        settings = {"datasets": [dataset | {"text": text}], "check": "none", "out": str(out)}
        start = time.process_time()  # other work on the machine does not count
        assert index(settings, tmp_path) == 0
        assert time.process_time() - start < 30
        assert len(RadiographIndex(out)) == n
