"""Mistakes in a configuration, light verbs, and what reaches the loggers."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sagittal_core.config_errors import plain

HERE = Path(__file__).parent
pytestmark = pytest.mark.filterwarnings("ignore")

Main = Callable[..., int]


def changed(config: dict, path: str, value: object) -> dict:
    *parents, key = path.split(".")
    inner = config
    for parent in parents:
        inner = inner[parent]
    inner[key] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (
            "model.init_args.lerning_rate",
            0.1,
            [
                "unknown key 'lerning_rate' under model.init_args",
                "allowed: diverge_at",
                "did you mean 'learning_rate'?",
            ],
        ),
        ("data.init_args.lenght", 3, ["data.init_args", "did you mean 'length'?"]),
        ("trainer.max_epoch", 3, ["under trainer", "did you mean 'max_epochs'?"]),
        ("modle", {}, ["unknown key 'modle'", "did you mean 'model'?"]),
        ("model.class_path", "ToyModle", ["class_path 'ToyModle' under model", "'ToyModel'?"]),
        ("model.class_path", "no.such.Model", ["cannot import", "no.such.Model", "under model"]),
        ("model.init_args.learning_rate", "fast", ["learning_rate", "fast"]),
        ("trainer.max_epochs", "many", ["max_epochs", "many"]),
        ("model.init_arg", {}, ["under model", "did you mean 'init_args'?"]),
        (
            "model.init_args.head",
            {"class_path": "Haed"},
            ["class_path 'Haed' under model.init_args.head; allowed: Head; did you mean 'Head'?"],
        ),
        (
            "model.init_args.head",
            {"class_path": "Head", "init_args": {"widht": 3}},
            ["unknown key 'widht' under model.init_args.head.init_args", "'width'?"],
        ),
        (
            "model.init_args.head",
            {"class_path": "Head", "init_args": {"width": "wide"}},
            ["model.init_args.head.init_args.width: Expected a <class 'int'>. Got value: wide\n"],
        ),
    ],
)
def test_a_mistake_is_named(
    toy_main: Main,
    config: dict,
    capsys: pytest.CaptureFixture[str],
    path: str,
    value: object,
    says: list[str],
) -> None:
    assert toy_main("fit", changed(config, path, value)) == 2
    err = capsys.readouterr().err
    for part in says:
        assert part in err
    assert "Traceback" not in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(("text", "says"), [("a: [", "no valid YAML"), ("- 1", "expected keys")])
def test_unreadable_config(
    toy_main: Main, config: dict, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    Path("broken.yaml").write_text(text)
    assert toy_main("fit", config, "-c", "broken.yaml") == 2
    assert says in capsys.readouterr().err
    assert toy_main("fit", config, "--config=none.yaml") == 2
    assert "none.yaml" in capsys.readouterr().err


def test_configs_compose_and_options_override(toy_main: Main, config: dict) -> None:
    Path("more.yaml").write_text("trainer: {max_epochs: 1}\nrun_name: composed\nmonitor: val_loss")
    assert toy_main("fit", config, "-c", "more.yaml", "--data.init_args.length", "4") == 0
    (run,) = Path("runs").iterdir()
    assert run.name.startswith("composed-")
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["data"]["init_args"]["length"] == 4
    assert saved["trainer"]["max_epochs"] == 1
    assert {f.name for f in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    # The saved config is a config: the same run, now finished.
    assert toy_main("fit", saved) == 3


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("model.init_args.learning_rate", -1.0, "fit: toy: learning_rate must be above 0, found"),
        ("trainer.accelerator", "mps", "toy: trainer: `MPSAccelerator` can not run"),
        ("trainer.accelerator", "gpuu", "accelerator='gpuu'"),
    ],
)
def test_a_value_that_a_class_refuses_is_named(
    toy_main: Main,
    config: dict,
    capsys: pytest.CaptureFixture[str],
    path: str,
    value: object,
    says: str,
) -> None:
    assert toy_main("fit", changed(config, path, value)) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("option", ["batch_size", "num_workers"])
def test_loader_options_out_of_range(
    toy_main: Main, config: dict, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert toy_main("fit", changed(config, f"data.init_args.{option}", -1)) == 2
    assert "expected batch_size >= 1" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(
    toy_main: Main, config: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("taken").write_text("a file")
    assert toy_main("fit", config, "--runs_dir", "taken/runs") == 2
    assert "taken/runs" in capsys.readouterr().err


def test_of_a_union_only_what_was_meant_is_said() -> None:
    said = plain(
        """Parser key "data":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'a.Simulated'>, <class 'b.Measured'>, <class 'NoneType'>]
  Errors:
    - Expected a dot import path string: Measured
    - Problem with given class_path 'b.Measured':
        Option 'calibratin' is not accepted
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {'class_path': 'Measured', 'init_args': {'calibratin': 16}}"""
    )
    assert said == "data: Option 'calibratin' is not accepted"
    said = plain(
        """Parser key "data":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'a.Simulated'>, <class 'b.Measured'>]
  Errors:
    - Expected a dot import path string: Measure
    - Expected a dot import path string: Measure
  Given value type: <class 'dict'>
  Given value: {'class_path': 'Measure'}"""
    )
    assert "allowed: Simulated, Measured" in said
    assert said.count("import path") == 1
    assert plain("two\nlines of another kind") == "two\nlines of another kind"


def test_unknown_verb(toy_main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    import toy

    assert toy.run(["fti"]) == 2
    assert "did you mean 'fit'?" in capsys.readouterr().err
    assert toy.run([]) == 2
    assert toy.run(["--help"]) == 0
    assert "  repeat           Print the content of a file" in capsys.readouterr().out


def test_an_option_that_there_is_none_of_is_named(
    toy_main: Main, config: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    import toy

    for word in ("--tines", "--tines=3"):
        assert toy.run(["repeat", word, "3"]) == 2
        said = capsys.readouterr().err
        assert "unknown option --tines" in said
        assert "did you mean --times?" in said
    Path("file.txt").write_text("ab")
    assert toy.run(["repeat", "file.txt", "--times", "3"]) == 0
    assert capsys.readouterr().out.strip() == "ababab"


LIGHT = """
import sys
sys.path.insert(0, {here!r})
from sagittal_core import cli
verbs = {{name: "light_verb:" + name for name in ("repeat", "join", "keep", "keep_most")}}
status = cli.main({args!r}, prog="toy", verbs=verbs, register="toy")
heavy = {{"torch", "lightning", "pytorch_lightning", "numpy"}} & set(sys.modules)
assert not heavy, heavy
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (["--help"], 0, "repeat           Print the content of a file several times."),
        (["repeat", "--help"], 0, "Print the content"),
        (["repeat", "text.txt", "--times", "3"], 0, "aaa"),
        (["repeat", "-c", "verb.yaml"], 0, "aaaa"),
        (["repeat", "text.txt", "--times", "x"], 2, "times"),
        (["repeat"], 2, "file"),
        (["join", "text.txt", "text.txt", "--by", "+"], 0, "a+a"),
        (["join", "[text.txt,text.txt]"], 0, "a a"),
        (["join", "--by", "+"], 2, "files"),
        (["keep", "text.txt/inside"], 2, "cannot write text.txt/inside: Not a directory"),
        (["keep_most", "--limit", "light_verb.Limit", "--limit.most", "3"], 0, "3"),
        (
            ["keep_most", "--limit", "light_verb.Limit", "--limit.most", "0"],
            2,
            "toy: limit: most must be at least 1, found 0",
        ),
        (["nothing"], 2, "unknown verb"),
    ],
)
def test_light_verbs_do_not_import_torch(
    tmp_path: Path, args: list[str], status: int, says: str
) -> None:
    (tmp_path / "text.txt").write_text("a")
    (tmp_path / "verb.yaml").write_text("file: text.txt\ntimes: 4\n")
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(here=str(HERE), args=args)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def log_records(data: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: 7 bytes of header, then LevelDB's log format."""
    block, position, record = 32768, 7, b""
    while position + 7 <= len(data):
        if block - position % block < 7:  # the rest of a block is padding
            position += block - position % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, last
            yield record
            record = b""


def test_offline_weights_and_biases_holds_config_and_metrics(
    toy: Callable[..., Any], config: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.proto import wandb_internal_pb2

    # Another test's service in this process would write the file after the toy's own end.
    for name in ("WANDB_SERVICE", "WANDB_X_DISABLE_META", "WANDB_CONSOLE"):
        monkeypatch.delenv(name, raising=False)
    config["trainer"]["max_epochs"] = 1
    config["trainer"]["logger"] = {"class_path": "lightning.pytorch.loggers.WandbLogger"}
    done = toy("fit", config)
    assert done.returncode == 0, done.stderr
    (run,) = Path("runs").iterdir()
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    settings, metrics = {}, {}
    for data in log_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for update in record.config.update:
            settings[update.key or ".".join(update.nested_key)] = update.value_json
        for item in record.history.item:
            metrics[item.key or ".".join(item.nested_key)] = item.value_json
        if record.HasField("run"):
            assert record.run.display_name == run.name
            settings |= {u.key: u.value_json for u in record.run.config.update}
    assert "ToyModel" in str(settings)
    assert '"max_epochs": 1' in str(settings) or '"max_epochs":1' in str(settings)
    assert "val_loss" in metrics
    assert (run / "metrics.csv").is_file()
    assert not Path("wandb").exists()


def test_no_path_reaches_weights_and_biases(
    toy: Callable[..., Any], config: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test's service in this process would write the file after the toy's own end.
    for name in ("WANDB_SERVICE", "WANDB_X_DISABLE_META", "WANDB_CONSOLE"):
        monkeypatch.delenv(name, raising=False)
    config["trainer"]["max_epochs"] = 1
    config["trainer"]["logger"] = {"class_path": "lightning.pytorch.loggers.WandbLogger"}
    done = toy("fit", config, f"--trainer.default_root_dir={Path('Jane_Doe').absolute()}")
    assert done.returncode == 0, done.stderr
    (run,) = Path("runs").iterdir()
    assert "Jane_Doe" in (run / "config.yaml").read_text()
    (folder,) = run.glob("wandb/offline-run-*")
    sent = [*folder.glob("*.wandb"), *(f for f in folder.glob("files/**/*") if f.is_file())]
    assert any(b"ToyModel" in file.read_bytes() for file in sent)
    assert [file for file in sent if b"Jane_Doe" in file.read_bytes()] == []
