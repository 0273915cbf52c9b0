"""The sentence encoder: real MiniLM keeps meanings together, and a folder's own rules are kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sagittal_core import sample_data
from sagittal_core.encoders import SentenceEncoder
from sagittal_core.errors import DataError

PAIRS = [
    ("The heart is enlarged.", "There is cardiomegaly."),
    ("No pleural effusion is seen.", "The pleural spaces are free of fluid."),
    ("A fracture of the left rib.", "The left rib is broken."),
    ("Brain MRI in the sagittal plane.", "A sagittal slice of the head."),
]


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    return SentenceEncoder()


def test_paraphrases_are_closer_than_other_sentences(minilm: SentenceEncoder) -> None:
    rows = minilm.encode([text for pair in PAIRS for text in pair], batch_size=3)
    assert rows.dtype == np.float32
    assert rows.shape == (8, minilm.dim) == (8, 384)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    cosines = rows[::2] @ rows[1::2].T
    assert (cosines.argmax(0) == np.arange(4)).all()
    assert (cosines.argmax(1) == np.arange(4)).all()


def test_rows_do_not_depend_on_their_batch_nor_on_padding(minilm: SentenceEncoder) -> None:
    texts = ["lung", "a long report about the lung, the heart and the bones of the chest", ""]
    together = minilm.encode(texts)
    alone = np.concatenate([minilm.encode([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert minilm.encode([]).shape == (0, 384)
    # Cut off at 256 tokens: what comes later changes nothing.
    np.testing.assert_allclose(*minilm.encode(["lung " * 300, "lung " * 300 + "heart"]), atol=1e-5)
    assert minilm.identity["encoder"] == "minilm"


def small(folder: Path) -> Path:
    """A tiny random BERT beside MiniLM's tokenizer files."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=30522,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        (folder / name).write_bytes((sample_data.path("minilm") / name).read_bytes())
    return folder


def test_pooling_of_the_folder(tmp_path: Path) -> None:
    import transformers

    folder = small(tmp_path / "m")
    text = "the heart"
    mean = SentenceEncoder(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    expected = torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy()
    np.testing.assert_allclose(mean.encode([text])[0], expected, atol=1e-5)
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True}))
    expected = torch.nn.functional.normalize(hidden[0], dim=0).numpy()
    first = SentenceEncoder(folder)
    np.testing.assert_allclose(first.encode([text])[0], expected, atol=1e-5)
    assert first.identity["pooling"] == "class"
    # Longer than the position table: cut off, no error.
    assert np.isfinite(first.encode(["heart " * 50])).all()
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(DataError, match="pooling_mode_max_tokens"):
        SentenceEncoder(folder)


def test_folders_that_are_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json"):
        SentenceEncoder(tmp_path)
    folder = small(tmp_path / "m")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"AutoModel[\s\S]*not fully covered"):
        SentenceEncoder(folder)
    file.unlink()
    with pytest.raises(DataError, match="AutoModel"):
        SentenceEncoder(folder)
