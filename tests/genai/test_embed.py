"""What becomes of a slice's patches, and SAIL's own files as a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_core.encoders import Features
from sagittal_core.errors import DataError
from sagittal_core.store import EmbeddingStore
from sagittal_genai.cli import run
from sagittal_genai.embedding.patches import empty_patches, patch_numbers, patch_organs
from sagittal_genai.embedding.plan import Load, plan_rows
from sagittal_genai.embedding.rows import lay_out
from sagittal_genai.embedding.source import Chunk

CLASSES = {1: "liver", 2: "spleen"}


@settings(max_examples=40, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    seed=st.integers(0, 99),
)
def test_patches_against_a_loop(grid: tuple[int, int], extra: tuple[int, int], seed: int) -> None:
    """Also where the grid does not divide the image."""
    size = (3 * grid[0] + extra[0], 3 * grid[1] + extra[1])
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, size).astype(np.int32)
    image = (generator.integers(0, 2, size) * generator.integers(0, 2) * 200).astype(np.uint8)
    image[: size[0] // 2] = 7
    numbers = patch_numbers(size, grid)
    assert np.unique(numbers).tolist() == list(range(grid[0] * grid[1]))
    empty, organs = empty_patches(image, grid), patch_organs(labels, grid, CLASSES)
    for patch in range(grid[0] * grid[1]):
        inside = numbers == patch
        assert empty[patch] == (len(np.unique(image[inside])) == 1)
        share = {name: (labels[inside] == number).mean() for number, name in CLASSES.items()}
        assert organs[patch] == [name for name, part in share.items() if part >= 0.25]


def test_a_quarter_of_a_patch_is_enough() -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[:2, :2] = 1  # 4 of 16
    labels[4:6, 4:6] = 2
    labels[5, 5] = 0  # 3 of 16
    labels[0, 4:] = 9  # a number without a name
    assert patch_organs(labels, (2, 2), CLASSES) == [["liver"], [], [], []]


def chunk() -> tuple[Chunk, pandas.DataFrame]:
    images = torch.zeros(2, 4, 4, dtype=torch.uint8)
    images[0, :2, 2:] = torch.tensor([[1, 2], [3, 4]])
    images[1, 2:] = torch.arange(8).view(2, 4)
    labels = np.zeros((4, 4), np.int32)
    labels[0, 2:] = 2
    index = pandas.DataFrame(
        {"image": ["a", "b", "c"], "organs": [["liver"], None, ["liver", "spleen"]]}
    )
    return Chunk(0, [2, 1], images, [labels, None], [], True), index


def test_token_rows_keep_their_place_and_organs() -> None:
    made, index = chunk()
    options = {"tokens": True, "drop_background": True, "classes": CLASSES}
    layout = lay_out(made, index, (2, 2), **options)
    assert layout.index["image"].tolist() == ["c", "b", "b"]
    assert layout.index["token"].tolist() == [1, 2, 3]
    assert layout.index["organs"].tolist() == [["spleen"], None, None]
    assert layout.index["image_organs"].tolist() == [["liver", "spleen"], None, None]
    assert layout.background == 5
    assert layout.index["token"].dtype == layout.index["grid_h"].dtype == np.int32
    tokens = torch.arange(8.0).view(2, 4, 1)
    rows = layout.rows(Features(torch.zeros(2, 1), tokens, (2, 2)))
    assert rows.flatten().tolist() == [1.0, 6.0, 7.0]

    everything = lay_out(made, index, (2, 2), **options | {"drop_background": False})
    assert len(everything.index) == 8
    assert everything.background == 0
    pooled = lay_out(made, index, (2, 2), **options | {"tokens": False})
    assert pooled.index["token"].tolist() == [-1, -1]
    assert pooled.index["organs"].tolist() == [["liver", "spleen"], None]
    assert "image_organs" not in pooled.index


def test_plan_is_arithmetic_on_what_was_measured() -> None:
    load = Load(100, 400, 10.0, 1024, 50.0, 2, "cpu")
    sizes, cost = plan_rows(load, 1_000_000, 512)
    assert sizes[0] == ["float32", f"{1e6 * 1024 * 4 / 2**30:.1f}", f"{5e7 / 2**30:.2f}"]
    assert ["slices", "250,000"] in cost
    assert ["shards of 512 slices", "489"] in cost
    assert ["hours on one cpu", "6.9"] in cost  # 250,000 at 10 a second


def sail_file(file: Path, rows: int, groups: int = 7, seed: int = 0) -> np.ndarray:
    """As ``EmbeddingWriter`` of SAIL leaves them: metadata, bytes, shape, type."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(rows, 6)).astype(np.float32)
    pandas.DataFrame(
        {
            "image_id": [f"s{number // 5:04d}" for number in range(rows)],
            "modality": "ct",
            "slice_orientation": [*"xyz"[: rows % 3], *"xyz" * (rows // 3)],
            "slice_idx": range(rows),
            "gender": "m",
            "liver": np.arange(rows) % 2,
            "heart": np.arange(rows) % 3 == 0,
            "embedding": [row.tobytes() for row in values],
            "embedding_shape": str(values[0].shape),
            "embedding_dtype": str(values.dtype),
        }
    ).to_parquet(file, index=False, row_group_size=groups)
    return values


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 40), groups=st.integers(1, 12), part=st.integers(1, 17))
def test_sails_files_become_a_store(
    tmp_path_factory: pytest.TempPathFactory, rows: int, groups: int, part: int
) -> None:
    folder = tmp_path_factory.mktemp("sail")
    first = sail_file(folder / "a.parquet", rows, groups)
    second = sail_file(folder / "b.parquet", 5, groups, seed=1)
    command = ["import-embeddings", str(folder / "a.parquet"), str(folder / "b.parquet")]
    command += ["--out", str(folder / "s"), "--split", "[train,val]", "--organs", "[liver,heart]"]
    command += ["--dtype", "float32", "--shard_rows", str(part)]
    assert run(command) == 0
    store = EmbeddingStore(folder / "s")
    assert np.array_equal(
        store.rows(np.arange(len(store))).numpy(), np.concatenate([first, second])
    )
    index = store.index()
    assert index["split"].tolist() == ["train"] * rows + ["val"] * 5
    assert index["slice"].tolist() == [*range(rows), *range(5)]
    assert index["scan"].iloc[0] == index["subject"].iloc[0] == "ct-s0000"
    assert set(index["orientation"]) <= {"sagittal", "coronal", "axial"}
    assert list(index["organs"].iloc[0]) == ["heart"]
    assert "liver" not in index
    assert (index["token"] == -1).all()


def test_files_that_are_not_sails_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sail_file(tmp_path / "a.parquet", 4)
    frame = pandas.read_parquet(tmp_path / "a.parquet")

    def attempt(changed: pandas.DataFrame, *options: str) -> str:
        changed.to_parquet(tmp_path / "b.parquet", index=False)
        command = ["import-embeddings", str(tmp_path / "b.parquet"), "--out", str(tmp_path / "s")]
        assert run([*command, *options]) == 2
        return capsys.readouterr().err

    assert "name it with split" in attempt(frame)
    train = ("--split", "[train]")
    assert "embedding_dtype" in attempt(frame.drop(columns="embedding_dtype"), *train)
    short = frame.assign(embedding=[b"1234" * 6] * 3 + [b"1234"])
    assert "embedding, row 3" in attempt(short, *train)
    assert "SAIL calls it image_id" in attempt(frame.drop(columns="image_id"), *train)
    assert "spleen" in attempt(frame, *train, "--organs", "[spleen]")
    assert "split is train" in attempt(frame, "--split", "[training]")
    (tmp_path / "c.parquet").write_text("no")
    assert run(["import-embeddings", str(tmp_path / "c.parquet"), *train]) == 2
    assert "a parquet file" in capsys.readouterr().err


def test_organs_that_a_scan_was_not_searched_for_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sail_file(tmp_path / "a.parquet", 4)
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    frame["liver"] = [1.0, 0.0, np.nan, np.nan]
    frame["heart"] = [True, False, True, None]
    frame["image_slice_orientation"] = "w"  # a second column of that meaning
    frame.to_parquet(tmp_path / "b.parquet", index=False)
    command = ["import-embeddings", str(tmp_path / "b.parquet"), "--out", str(tmp_path / "s")]
    command += ["--split", "[train]", "--organs", "[liver,heart]"]
    assert run(command) == 0
    index = EmbeddingStore(tmp_path / "s").index()
    found = [None if names is None else list(names) for names in index["organs"]]
    assert found == [["liver", "heart"], [], ["heart"], None]
    assert set(index["orientation"]) <= {"sagittal", "coronal", "axial"}
    frame.assign(heart=[2, 1, 0, 0]).to_parquet(tmp_path / "b.parquet", index=False)
    assert run([*command, "--out", str(tmp_path / "other")]) == 2
    assert "0, 1 or nothing" in capsys.readouterr().err


def test_widths_that_differ_are_refused(tmp_path: Path) -> None:
    from sagittal_genai.embedding.sail_parquet import open_files

    sail_file(tmp_path / "a.parquet", 4)
    frame = pandas.read_parquet(tmp_path / "a.parquet")
    wide = frame.assign(embedding=[np.zeros(7, np.float32).tobytes()] * 4, embedding_shape="(7,)")
    wide.to_parquet(tmp_path / "b.parquet", index=False)
    with pytest.raises(DataError, match="one width"):
        open_files([tmp_path / "a.parquet", tmp_path / "b.parquet"], ["train", "val"], 4)
