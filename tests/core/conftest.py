"""A tiny command line for the tests of the run folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
Toy = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """A configuration of the toy; the working directory is the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    return {
        "model": {"class_path": "ToyModel", "init_args": {"learning_rate": 0.01}},
        "data": {"class_path": "ToyData", "init_args": {"length": 20}},
        "checkpoint_every_n_steps": 3,
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 3,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        },
    }


@pytest.fixture
def toy(config: dict) -> Toy:
    """Run the toy in a process of its own: ``toy("fit", config, "--fresh", TOY_KILL_AT=7)``."""

    def run(
        verb: str, settings: dict, *options: str, **environment: object
    ) -> subprocess.CompletedProcess[str]:
        Path("config.yaml").write_text(yaml.safe_dump(settings))
        command = [sys.executable, str(HERE / "toy_main.py"), verb, "-c", "config.yaml", *options]
        extra = {k: str(v) for k, v in environment.items()}
        return subprocess.run(
            command,
            env=os.environ | extra,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.fixture
def toy_main(config: dict) -> Callable[..., int]:
    """Run the toy inside this process: ``toy_main("fit", config)`` returns the exit status."""
    import toy as module

    def run(verb: str, settings: dict, *options: str) -> int:
        Path("config.yaml").write_text(yaml.safe_dump(settings))
        return module.run([verb, "-c", "config.yaml", *options])

    return run
