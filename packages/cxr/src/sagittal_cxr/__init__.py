"""Chest X-ray foundation models: contrastive pretraining on curated data (CheXficient)."""

__version__ = "0.1.0"
