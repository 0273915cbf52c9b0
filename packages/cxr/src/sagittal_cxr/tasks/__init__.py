"""The five task types that a chest X-ray model is evaluated on."""
