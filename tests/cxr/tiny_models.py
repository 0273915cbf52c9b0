"""Tiny checkpoints on disk in the formats of the real ones, and an index of drawn radiographs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas
import torch
from PIL import Image

WORDS = ["no", "acute", "finding", "large", "small", "left", "right", "effusion", "mass"]
WORDS += ["clear", "lungs", "heart", "normal", ".", ","]
SIDE = 28


def vision_checkpoint(folder: Path, side: int = SIDE) -> Path:
    """A DINOv2 of two layers."""
    import transformers

    config = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=28,
        patch_size=7,
        drop_path_rate=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.Dinov2Model(config).save_pretrained(folder)
    processor = {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "resample": 3,
        "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def text_checkpoint(folder: Path, dropout: float = 0.1) -> Path:
    """A BERT of two layers with a vocabulary of a few words, without a fast tokenizer's file."""
    import transformers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=300,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    return folder


def write_index(folder: Path, train: int = 20, val: int = 6, test: int = 5) -> Path:
    """An index folder as ``sagittal-cxr index`` writes it; one text is empty, one pair double."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for row, split in enumerate(["train"] * train + ["val"] * val + ["test"] * test):
        pixels = rng.integers(0, 255, (4, 4)).astype(np.uint8)
        Image.fromarray(pixels).resize((40, 32)).save(folder / "images" / f"{row}.png")
        text = " ".join(rng.choice(WORDS, 3 + row % 5)) if row != 1 else ""
        rows.append(
            {
                "dataset": "drawn",
                "image": f"images/{row}.png",
                "patient": f"drawn/{row}",
                "study": str(row),
                "view": "PA",
                "split": split,
                "sex": None,
                "age": float("nan"),
                "findings": text or None,
                "impression": None,
                "text": text,
                "text_source": "report" if text else "none",
                "positive": [],
                "negative": [],
                "uncertain": [],
                "boxes": [],
                "mask": None,
                "width": 40,
                "height": 32,
                "duplicate_of": 0 if row == 2 else -1,
            }
        )
    pandas.DataFrame(rows).to_parquet(folder / "rows-00000.parquet", index=False)
    described = {
        "version": 1,
        "identity": "0" * 64,
        "sections": {"policy": "findings"},
        "datasets": [{"name": "drawn", "root": str(folder)}],
        "counts": {"rows": len(rows), "files": 1},
    }
    (folder / "index.json").write_text(json.dumps(described))
    return folder
