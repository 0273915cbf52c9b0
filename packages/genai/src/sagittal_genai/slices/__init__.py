"""Scans cut into 2-D pictures with their metadata: where from, how, and the folder they lie in."""

from sagittal_genai.slices.folder import SliceFolder

__all__ = ["SliceFolder"]
