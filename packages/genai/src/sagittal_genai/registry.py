"""Importing this module makes the package's classes known by bare name in YAML."""

from sagittal_genai.data import EmbeddingData
from sagittal_genai.nn.activations import BatchTopK, JumpReLU, TopK
from sagittal_genai.nn.sae import SparseAutoencoder
from sagittal_genai.nn.sail_compat import SAILCompat
from sagittal_genai.sail import SAIL

__all__ = [
    "SAIL",
    "BatchTopK",
    "EmbeddingData",
    "JumpReLU",
    "SAILCompat",
    "SparseAutoencoder",
    "TopK",
]
