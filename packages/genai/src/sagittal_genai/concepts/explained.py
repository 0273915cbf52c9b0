"""What ``explain`` leaves behind for ``search``: features, their names and where the data lies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagittal_core.errors import DataError
from sagittal_core.run_folder import write_atomically

if TYPE_CHECKING:
    import pandas
    from scipy.sparse import csr_matrix

VERSION = 1


@dataclass(frozen=True)
class Named:
    """One explained feature.

    Attributes:
        number: In the autoencoder.
        name: None: unnamed.
        words: Its shared concepts in words; may be empty.
        mean: Mean activation over the training rows in which it is active.
        rank: By the judge; None: not judged.
    """

    number: int
    name: str | None
    words: str
    mean: float
    rank: int | None


@dataclass(frozen=True)
class Explained:
    """A finished ``explain``.

    Attributes:
        store: Folder of the embeddings.
        codes: Folder of the codes.
        slices: Folder of the images, or None.
        columns: Metadata columns that describe rows; None: the known ones.
        held_out: Split that was judged and searched.
        features: By monosemanticity.
    """

    store: str
    codes: str
    slices: str | None
    columns: list[str] | None
    held_out: str
    features: Sequence[Named]

    def searchable(self) -> dict[int, Named]:
        """Features with a name, but for those whose name the judge ranked third or worse."""
        return {f.number: f for f in self.features if f.name and (f.rank is None or f.rank <= 2)}

    def write(self, folder: Path) -> None:
        """Write ``explained.json``; it holds paths and stays on this machine."""
        text = json.dumps({"version": VERSION, **asdict(self)}, indent=1, ensure_ascii=False)
        write_atomically(folder / "explained.json", text)

    @classmethod
    def read(cls, folder: Path) -> Explained:
        """Read what :meth:`write` wrote.

        Raises:
            DataError: There is none, or it is damaged.
        """
        file = folder / "explained.json"
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if found.pop("version") != VERSION:
                raise ValueError("another version")
            features = [Named(**one) for one in found.pop("features")]
            return cls(features=features, **found)
        except FileNotFoundError:
            raise DataError(
                folder,
                key="explained.json",
                expected="the folder of a finished `explain`",
                found="none",
                hint="run `sagittal-genai explain` first, with this folder as its --out",
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                file, key="explained.json", expected="features", found=repr(error)
            ) from None


def open_data(store: Path, codes: Path) -> tuple[csr_matrix, pandas.DataFrame]:
    """Codes and metadata of a store, row for row.

    Raises:
        DataError: One of them is missing, or the codes are of another store.
    """
    from sagittal_core.store import EmbeddingStore
    from sagittal_genai.codes import CodeStore, store_hash

    opened, coded = EmbeddingStore(store), CodeStore(codes)
    if coded.description["store"] != store_hash(opened):
        raise DataError(
            codes,
            key="store",
            expected="codes of this store",
            found="codes of another one",
            hint="make codes of the store that is given, or give the store they were made of",
        )
    return coded.csr(), opened.index()


def image_index(index: pandas.DataFrame) -> pandas.DataFrame:
    """The index with the whole slice's organs in place of a token's."""
    if "image_organs" not in index:
        return index
    whole = index.drop(columns="image_organs")
    whole["organs"] = index["image_organs"]
    return whole


def identity(store: Path, codes: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values that decide what ``explain`` finds."""
    described = {
        name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name, folder in (("store", store), ("codes", codes))
        if (folder / f"{name}.json").is_file()
    }
    return {**described, **settings}
