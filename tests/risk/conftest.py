"""A tiny tuned model that several files ask."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tiny_lm
import tiny_run


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [
        one.prompt for one in map(tiny_run.TELLING.tell, tiny_run.patients().to_dict("records"))
    ]
    return tiny_lm.save_tiny(tmp_path_factory.mktemp("lm") / "lm", [t for t in texts if t])


@pytest.fixture(scope="session")
def prefix(weights: Path) -> Path:
    return tiny_run.save_run(weights.parent / "runs", weights)
