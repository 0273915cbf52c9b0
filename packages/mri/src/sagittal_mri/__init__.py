"""Self-supervised MRI reconstruction: physics, unrolled networks, UNITS training, evaluation."""

__version__ = "0.1.0"
