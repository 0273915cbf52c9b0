"""``sagittal-genai slice``: every configuration on tiny inputs, kills, refusals."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "genai"))
sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from dicom_files import dataset, rotated, save, write_series
from volume_files import body, radiographs, totalsegmentator

from sagittal_core.errors import ConfigError
from sagittal_core.parallel import outcomes
from sagittal_core.volumes import write_nifti
from sagittal_genai.cli import run
from sagittal_genai.slices import SliceFolder
from sagittal_genai.slices.scans import Scan
from sagittal_genai.slicing import _attempt

pytestmark = pytest.mark.e2e
CONFIGS = Path(__file__).parents[2] / "packages" / "genai" / "configs"


def config(name: str, folder: Path, **changes: object) -> dict:
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return settings | {"out": str(folder / "out"), "size": 48, "workers": 0} | changes


def slice_(settings: dict, folder: Path) -> int:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return run(["slice", "-c", str(file)])


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def total_config(folder: Path, cases: int = 6, **changes: object) -> dict:
    settings = config("slice_totalsegmentator", folder, **changes)
    source = settings["sources"][0]
    source["init_args"]["folder"] = str(totalsegmentator(folder / "ct", "CT", cases))
    settings["ct"]["windows"]["ct thorax abdomen"] = [50, 500]
    settings["sources"] = [source]
    return settings


def test_slice_totalsegmentator(tmp_path: Path) -> None:
    settings = config("slice_totalsegmentator", tmp_path)
    for source in settings["sources"]:
        kind = source["init_args"]["modality"]
        source["init_args"]["folder"] = str(totalsegmentator(tmp_path / kind, kind, 6))
    settings["ct"]["windows"]["ct thorax abdomen"] = [50, 500]
    settings["mr"]["n4"] = False
    assert slice_(settings, tmp_path) == 0
    folder = SliceFolder(tmp_path / "out")
    index = folder.index()
    assert set(index[index["modality"] == "CT"]["orientation"]) == {"sagittal", "coronal", "axial"}
    assert set(index[index["modality"] == "MR"]["orientation"]) == {"axial"}
    assert folder.classes == {1: "brain", 2: "liver"}
    assert index["organs"].map(len).max() == 1
    held = index.groupby("institute")["split"].unique()
    assert all(list(held[i]) == ["test"] for i in "AD")
    assert index.groupby("subject")["split"].nunique().max() == 1
    assert len(index[["image"]].drop_duplicates()) == len(index)
    for _, row in index.iloc[::20].iterrows():
        image, label = folder.image(row), folder.label(row)
        assert image.shape == label.shape == (48, 48)
        assert sorted(folder.classes[n] for n in np.unique(label) if n) == row["organs"]
    counts = json.loads((tmp_path / "out" / "slices.json").read_text())
    assert counts["slices"] == len(index) == sum(counts["split"].values())
    report = (tmp_path / "out" / "report.html").read_text()
    assert report.count("<img") == 4
    assert str(tmp_path) not in report


def test_slice_totalsegmentator_corrects_the_bias_of_mr(tmp_path: Path) -> None:
    pytest.importorskip("SimpleITK")
    settings = config("slice_totalsegmentator", tmp_path)
    source = settings["sources"][1]
    source["init_args"]["folder"] = str(totalsegmentator(tmp_path / "MR", "MR", 1))
    settings |= {"sources": [source], "split": {}}
    assert settings["mr"]["n4"]
    assert slice_(settings, tmp_path) == 0
    assert len(SliceFolder(tmp_path / "out").index()) > 1


def test_slice_volumes(tmp_path: Path) -> None:
    """The shipped list with small volumes in place of the samples, and a DICOM folder beside."""
    values, organ, affine = body()
    head = values + 1000
    settings = config("slice_volumes", tmp_path)
    volumes = settings["sources"][0]["init_args"]["volumes"]
    for entry in volumes:
        file = tmp_path / f"{entry['name']}.nii.gz"
        if "frame" in entry:
            nibabel.save(nibabel.Nifti1Image(np.stack([head, head + 1], -1), affine), file)
        else:
            write_nifti(file, values if entry["modality"] == "CT" else head, affine)
        entry["image"] = str(file)
        for name in entry.get("probabilities", {}):
            mask = tmp_path / f"{name}.nii.gz"
            write_nifti(mask, np.where(organ, 255, 0).astype(np.uint8), affine)
            entry["probabilities"][name] = str(mask)
    grid = rotated((0, 0, np.pi), (2, 2, 2), (20, 20, 0))
    write_series(tmp_path / "dicom", head, grid, modality="MR")
    volumes.append({"image": str(tmp_path / "dicom"), "split": "test"})
    write_nifti(tmp_path / "seg.nii.gz", organ.astype(np.uint8), affine)
    write_nifti(tmp_path / "own.nii.gz", values, affine)
    own = {"image": str(tmp_path / "own.nii.gz"), "modality": "CT", "classes": {1: "liver"}}
    own |= {"labels": str(tmp_path / "seg.nii.gz"), "metadata": {"study_type": "ct head"}}
    volumes.append(own)
    assert slice_(settings, tmp_path) == 0
    index = SliceFolder(tmp_path / "out").index()
    assert {e["name"] for e in volumes if "name" in e} < set(index["scan"])
    assert index["scan"].nunique() == len(volumes)
    assert set(index["split"]) == {"train", "val", "test"}
    assert index.groupby("scan")["orientation"].nunique().min() == 3
    with_organs = index[index["organs"].notna()]
    assert set(with_organs["scan"]) == {"mni152_t1", "own"}
    assert {o for names in with_organs[with_organs["scan"] == "own"]["organs"] for o in names} == {
        "liver"
    }
    assert index["sequence"].notna().sum() > 0
    assert index[index["scan"].str.startswith("p")]["age"].unique().tolist() == [67.0]


def test_slice_radiographs(tmp_path: Path) -> None:
    folder = radiographs(tmp_path / "nih")
    deep = save(dataset(np.arange(400, dtype=np.uint16).reshape(20, 20), "CR"), tmp_path / "d.dcm")
    settings = config("slice_radiographs", tmp_path)
    rows = (folder / "labels.csv").read_text().rstrip() + f"\n{deep},Edema,1009,30,M,PA\n"
    (folder / "labels.csv").write_text(rows)
    settings["sources"][0]["init_args"] |= {
        "table": str(folder / "labels.csv"),
        "images": str(folder / "images"),
    }
    settings["split"]["val_share"] = 0.3
    assert slice_(settings, tmp_path) == 0
    index = SliceFolder(tmp_path / "out").index()
    assert len(index) == 21
    assert index["subject"].nunique() == 10
    assert index.groupby("subject")["split"].nunique().max() == 1
    assert set(index["split"]) == {"train", "val", "test"}
    assert set(index["view"]) == {"PA", "AP"}
    assert index["organs"].isna().all()
    assert [] in index["findings"].tolist()
    assert ["Edema", "Effusion"] in index["findings"].tolist()
    assert index["findings"].isna().any()
    sources = table(tmp_path / "out" / "sources.csv")
    assert sources[0]["path"].endswith("00000000_000.png"), "the way back stays in the folder"
    assert "00000000_000" not in (tmp_path / "out" / "report.html").read_text()


def test_again_other_settings_and_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = total_config(tmp_path)
    damaged = tmp_path / "ct" / "s0004" / "ct.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:300])
    (tmp_path / "ct" / "s0002" / "ct.nii.gz").unlink()
    assert slice_(settings, tmp_path) == 0
    assert "2 refused" in capsys.readouterr().out
    refused = {row["scan"]: row["reason"] for row in table(tmp_path / "out" / "refused.csv")}
    assert set(refused) == {"ct-s0002", "ct-s0004"}
    assert "readable NIfTI" in refused["ct-s0004"]
    index = SliceFolder(tmp_path / "out").index()
    assert index["scan"].nunique() == 4
    before = (tmp_path / "out" / index["image"][0]).stat().st_mtime_ns
    identity = SliceFolder(tmp_path / "out").description["identity"]
    assert slice_(settings, tmp_path) == 0
    assert SliceFolder(tmp_path / "out").description["identity"] == identity
    assert "4 are there, 1 to do" in capsys.readouterr().out
    assert (tmp_path / "out" / index["image"][0]).stat().st_mtime_ns == before
    # The damaged file is replaced, and the masks of another scan: both are cut, the rest stays.
    damaged.write_bytes((tmp_path / "ct" / "s0001" / "ct.nii.gz").read_bytes())
    mask = tmp_path / "ct" / "s0003" / "segmentations"
    (mask / "brain.nii.gz").write_bytes((mask / "liver.nii.gz").read_bytes())
    assert slice_(settings, tmp_path) == 0
    assert "3 are there, 2 to do" in capsys.readouterr().out
    again = SliceFolder(tmp_path / "out").index()
    changed = SliceFolder(tmp_path / "out").description["identity"]
    assert {key for key in identity if identity[key] != changed[key]} == {"files"}
    assert again["scan"].nunique() == 5
    assert again[again["scan"] == "ct-s0003"]["organs"].iloc[3] == ["liver"]  # the later one wins
    assert slice_(settings | {"size": 32}, tmp_path) == 2
    assert "another size: found 48, expected 32" in capsys.readouterr().err
    settings["ct"]["windows"].pop("ct thorax abdomen")
    assert slice_(settings, tmp_path) == 2
    assert "'ct thorax abdomen'" in capsys.readouterr().err


def test_nothing_usable_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = total_config(tmp_path, cases=2)
    for file in (tmp_path / "ct").glob("*/ct.nii.gz"):
        file.write_text("no image")
    assert slice_(settings, tmp_path) == 2
    assert "at least one that can be used" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_in_the_middle_equals_undisturbed(tmp_path: Path) -> None:
    """SIGKILL to the parent while its workers write; the same command at once goes on."""
    settings = total_config(tmp_path, cases=8, size=256, workers=2)
    (tmp_path / "whole").mkdir()
    whole = settings | {"out": str(tmp_path / "whole" / "out"), "workers": 0}
    assert slice_(whole, tmp_path / "whole") == 0
    file, script = tmp_path / "config.yaml", tmp_path / "main.py"
    file.write_text(yaml.safe_dump(settings))
    script.write_text(
        "from sagittal_genai.cli import main\n\nif __name__ == '__main__':\n    main()\n"
    )
    command = [sys.executable, str(script), "slice", "-c", str(file)]
    index = tmp_path / "out" / "index"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(6000):
                if len(list(index.glob("ct-*.parquet"))) >= 2 or process.poll() is not None:
                    break
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    there = len(list(index.glob("ct-*.parquet")))
    assert 2 <= there < 8
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert " are there, " in done.stdout
    assert "8 scans: 0 are there" not in done.stdout
    resumed, undisturbed = SliceFolder(tmp_path / "out"), SliceFolder(tmp_path / "whole" / "out")
    assert resumed.index().equals(undisturbed.index())
    for kind in ("images", "labels"):
        one, two = (
            {p.relative_to(f.folder): p.read_bytes() for p in f.folder.glob(f"{kind}/*/*")}
            for f in (resumed, undisturbed)
        )
        assert one == two


class Deadly(Scan):
    """Kills the process that unpickles it: a worker that runs out of memory."""

    def __reduce__(self) -> tuple:
        return signal.raise_signal, (signal.SIGKILL,)


def test_a_killed_worker_is_reported() -> None:
    scan = Deadly("a", "s", "CR", ())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"worker process was killed[\s\S]*goes on"):
        list(outcomes(partial(_attempt, None), [scan, scan], 2, verb="slice"))


def test_two_commands_on_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from filelock import FileLock

    settings = total_config(tmp_path, cases=1)
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        assert slice_(settings, tmp_path) == 2
    assert "another process is writing" in capsys.readouterr().err


def test_help_is_light_and_names_every_option() -> None:
    code = (
        "import sys\nfrom sagittal_genai.cli import run\nstatus = run(['slice', '--help'])\n"
        "heavy = {'torch', 'lightning', 'numpy', 'pandas', 'jsonargparse'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    for option in ("sources", "--out", "--size", "--fit", "--ct", "--mr", "--split", "--workers"):
        assert option in done.stdout


def test_pictures_are_plain_png(tmp_path: Path) -> None:
    """What other programs read: grey, eight bits, no metadata of the source."""
    assert slice_(total_config(tmp_path, cases=1, split={}), tmp_path) == 0
    for file in (tmp_path / "out" / "images").glob("*/*.png"):
        with Image.open(file) as image:
            assert (image.mode, image.size, image.info) == ("L", (48, 48), {})
