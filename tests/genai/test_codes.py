"""Codes on disk: small, the same as the autoencoder's, resumable, and never of another one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from scipy.sparse import csr_matrix

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.store import EmbeddingStore, ShardWriter
from sagittal_genai import codes as module
from sagittal_genai.codes import CodeStore, write_codes
from sagittal_genai.nn.activations import TopK
from sagittal_genai.nn.sae import SparseAutoencoder
from sagittal_genai.runs import autoencoder_hash

D, F = 6, 40


def store(folder: Path, sizes: tuple[int, ...] = (7, 0, 5), value: float = 1.0) -> EmbeddingStore:
    identity = {"value": value}
    writer = ShardWriter(folder, dim=D, dtype=torch.float32, shards=len(sizes), identity=identity)
    for number in writer.missing():
        generator = torch.Generator().manual_seed(number)
        rows = value * torch.randn(sizes[number], D, generator=generator)
        writer.write(number, rows, pandas.DataFrame({"row": range(sizes[number])}))
    return EmbeddingStore(folder)


def autoencoder(seed: int = 0, k: int = 4) -> SparseAutoencoder:
    return SparseAutoencoder(D, F, TopK(k), seed=seed).eval()


def dense(network: SparseAutoencoder, rows: torch.Tensor) -> np.ndarray:
    codes = network.encode(rows)
    out = torch.zeros(len(rows), F).scatter(1, codes.indices, codes.values)
    return out.numpy()


def test_codes_are_the_autoencoders_in_order(tmp_path: Path) -> None:
    rows, network = store(tmp_path / "s"), autoencoder()
    found = write_codes(network, rows, tmp_path / "c", batch_size=3)
    expected = dense(network, rows.rows(range(12)))
    np.testing.assert_allclose(found.csr().toarray(), expected, rtol=1e-3, atol=1e-6)
    assert found.csr().dtype == np.float32
    assert len(found) == 12
    some = np.array([0, 6, 7, 11])
    assert (found.csr(some) != found.csr()[some]).nnz == 0
    assert found.csr(np.array([], dtype=np.int64)).shape == (0, F)


def test_of_another_autoencoder_or_store_they_are_refused(tmp_path: Path) -> None:
    rows = store(tmp_path / "s")
    write_codes(autoencoder(), rows, tmp_path / "c")
    for network, source, key in (
        (autoencoder(seed=1), rows, "autoencoder"),
        (autoencoder(k=5), rows, "autoencoder"),
        (autoencoder(), store(tmp_path / "t", value=2.0), "store"),
    ):
        with pytest.raises(ConfigError, match=f"another {key}"):
            write_codes(network, source, tmp_path / "c")
    wide = SparseAutoencoder(D + 1, F, TopK(2))
    with pytest.raises(DataError, match="7 as the autoencoder"):
        write_codes(wide, rows, tmp_path / "d")
    with pytest.raises(ConfigError, match="holds no codes"):
        write_codes(autoencoder(), rows, tmp_path / "s")


def test_training_counts_do_not_decide_what_an_autoencoder_is() -> None:
    network = autoencoder()
    before = autoencoder_hash(network)
    network.idle += 3
    assert autoencoder_hash(network.train().eval()) == before
    with torch.no_grad():
        network.b_e[0] += 1
    assert autoencoder_hash(network) != before


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
from test_codes import autoencoder, store
from pathlib import Path
from sagittal_genai.codes import write_codes
folder = Path(sys.argv[1])
def stop(done, shards):
    if done == 1:
        os.kill(os.getpid(), signal.SIGKILL)
write_codes(autoencoder(), store(folder / "s"), folder / "c", progress=stop)
"""


def test_a_killed_writer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = KILLED.format(here=str(Path(__file__).parent))
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    with pytest.raises(DataError, match="expected: 3 shards"):
        CodeStore(tmp_path / "c")
    encoded: list[range] = []
    encode = module._encode

    def counted(network, store, numbers, *rest):
        encoded.append(numbers)
        return encode(network, store, numbers, *rest)

    monkeypatch.setattr(module, "_encode", counted)
    rows = EmbeddingStore(tmp_path / "s")
    found = write_codes(autoencoder(), rows, tmp_path / "c")
    assert encoded == [range(7, 7), range(7, 12)]
    expected = dense(autoencoder(), rows.rows(range(12)))
    np.testing.assert_allclose(found.csr().toarray(), expected, rtol=1e-3, atol=1e-6)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    found = write_codes(autoencoder(), store(tmp_path / "s"), tmp_path / "c")
    file = tmp_path / "c" / "codes-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DataError, match="codes-00002"):
        found.csr()


def saved(matrix: csr_matrix, folder: Path) -> csr_matrix:
    """Through one file and back."""
    folder.mkdir()
    module._save(folder / "codes-00000.safetensors", matrix, folder)
    (folder / "codes.json").write_text(
        f'{{"version": 1, "rows": [{matrix.shape[0]}], "n_features": {matrix.shape[1]},'
        ' "autoencoder": "a", "store": "s"}'
    )
    return CodeStore(folder).csr()


def test_values_beyond_float16_are_scaled_and_none_is_lost(tmp_path: Path) -> None:
    values = np.array([[70_000.0, 1e-9, 0, 1.5e6], [0, 0, 2.0, 0]], dtype=np.float32)
    back = saved(csr_matrix(values), tmp_path / "c").toarray()
    np.testing.assert_allclose(back, values, rtol=1e-3, atol=1e-5)
    assert ((back != 0) == (values != 0)).all()
    with pytest.raises(DataError, match="row 1"):
        saved(csr_matrix(np.array([[0, 1.0], [np.inf, 0]], dtype=np.float32)), tmp_path / "d")


@pytest.mark.parametrize(("features", "kind"), [(65_536, np.uint16), (65_537, np.int32)])
def test_wide_dictionaries_get_wider_indices(features: int, kind: type, tmp_path: Path) -> None:
    matrix = csr_matrix(([1.0, 2.0], [0, features - 1], [0, 1, 2]), shape=(2, features))
    back = saved(matrix.astype(np.float32), tmp_path / "c")
    assert (back != matrix).nnz == 0
    size = (tmp_path / "c" / "codes-00000.safetensors").stat().st_size
    assert size < 700 + 2 * (np.dtype(kind).itemsize + 2)


def test_a_hundred_thousand_rows_take_under_40_megabytes(tmp_path: Path) -> None:
    rows, active = 100_000, 40
    rng = np.random.default_rng(0)
    # Forty different features a row: one of each forty-tuple of 204.
    indices = rng.integers(0, 204, (rows, active)) + 204 * np.arange(active)
    data = rng.exponential(size=rows * active).astype(np.float32) + 0.01
    offsets = np.arange(0, rows * active + 1, active)
    matrix = csr_matrix((data, indices.ravel(), offsets), shape=(rows, 8192))
    back = saved(matrix, tmp_path / "c")
    assert (tmp_path / "c" / "codes-00000.safetensors").stat().st_size < 40e6
    np.testing.assert_allclose(back.data, data, rtol=1e-3)
    assert (back.indices == matrix.indices).all()
