"""What ``sagittal-genai evaluate`` does: rows, measures, their cache, tables and figures."""
