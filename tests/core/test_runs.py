"""Finished runs are found by their prefix, and their models loaded as they were saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.runs import find_run, load_model


def test_a_run_is_found_by_its_prefix_and_its_model_loaded(
    config: dict, toy_main: Callable[..., int]
) -> None:
    with pytest.raises(ConfigError, match="found none; train it first"):
        find_run(Path("runs/run"))
    assert toy_main("fit", config) == 0
    folder = find_run(Path("runs/run"))
    assert find_run(folder) == folder
    assert toy_main("fit", config, "--run_name", "run-twin") == 0  # its name begins alike
    assert find_run(Path("runs/run")) == folder
    assert find_run(Path("runs/run-twin")).name.startswith("run-twin-")
    model = load_model(folder, "toy")
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])

    (folder / "checkpoints" / "last.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(DataError, match=r"last\.ckpt"):
        load_model(folder, "toy")

    (folder / "state.json").write_text('{"status": "unfinished"}')
    with pytest.raises(ConfigError, match="not finished"):
        find_run(Path("runs/run"))
    config["trainer"]["max_epochs"] = 1
    assert toy_main("fit", config, "--fresh") == 0
    assert find_run(Path("runs/run")) != folder  # which was moved away
    config["trainer"]["max_epochs"] = 3
    assert toy_main("fit", config) == 0
    with pytest.raises(ConfigError, match=r"found runs/run-.*, runs/run-.*; name one of them"):
        find_run(Path("runs/run"))
