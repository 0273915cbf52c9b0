"""A tiny causal language model on disk, in the format of the real ones, without a chat template."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = [
    "no",
    "pleural",
    "effusion",
    ".",
    "large",
    "left",
    "right",
    "cardiomegaly",
    "lungs",
    "are",
    "clear",
    "is",
    "present",
    "there",
    ":",
]


def language_checkpoint(folder: Path) -> Path:
    """A Llama of two layers that knows a few words, <end> among them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: n for n, word in enumerate(["<unk>", "<end>", *WORDS])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="<end>", pad_token="<end>"
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder
