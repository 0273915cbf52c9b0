"""Fit, validate and test: LightningCLI around a run folder."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import yaml
from filelock import FileLock
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from sagittal_core import callbacks as ours
from sagittal_core.config_check import check_files
from sagittal_core.config_errors import plain
from sagittal_core.errors import ConfigError, mistakes_named
from sagittal_core.run_folder import RunFolder, find_run, folder_of, open_run
from sagittal_core.run_logger import RunLogger


def run(prog: str, verb: str, args: list[str], register: str) -> int:
    """Run ``fit``, ``validate`` or ``test`` and return the exit status.

    Raises:
        ConfigError: For a mistake in the YAML or on the command line.
    """
    importlib.import_module(register)
    # A user's own choice stands; without one nothing leaves the machine.
    os.environ.setdefault("WANDB_MODE", "offline")
    # Lightning calls a deprecated method of jsonargparse; a user can do nothing about it.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    check_files(args)
    try:
        SagittalCLI(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            # ResumableDataLoader shards by itself.
            trainer_defaults={"use_distributed_sampler": False},
            parser_kwargs={"prog": prog, "exit_on_error": False}
            | {v: {"exit_on_error": False} for v in ("fit", "validate", "test")},
            args=[verb, *args],
        )
    except ArgumentError as error:
        raise ConfigError(plain(str(error))) from None
    except MisconfigurationException as error:
        raise ConfigError(str(error)) from error
    except ours.NonFiniteLoss as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return 1
    except SIGTERMException:  # a SystemExit whose status would be 0
        sys.stderr.write(f"{prog}: terminated; the same command goes on where it stopped\n")
        return 143
    except SystemExit as stop:
        # Lightning turns an interrupt into SystemExit(1) after its own clean-up.
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        SagittalCLI.release()
    return 0


class SagittalCLI(LightningCLI):
    """LightningCLI whose runs live in run folders: resumed if unfinished, refused if finished."""

    _lock: ClassVar[FileLock | None] = None  # of the run that this process trains

    @classmethod
    def release(cls) -> None:
        """Let another fit have the run folder; a failed one's traceback would hold on to it."""
        if cls._lock is not None:
            cls._lock.release()
            cls._lock = None

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Leave predict out: file in, picture out is a verb of each package."""
        return {k: v for k, v in LightningCLI.subcommands().items() if k != "predict"}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; Lightning's own version warns when ``main`` is called from Python."""
        self.config = parser.parse_args(args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the run folder."""
        parser.add_argument("--run_name", type=str, default="run", help="first part of the folder")
        parser.add_argument(
            "--runs_dir", type=str, default="runs", help="parent of all run folders"
        )
        parser.add_argument(
            "--fresh",
            action="store_true",
            help="start anew; the old folder is renamed, not deleted",
        )
        parser.add_argument("--checkpoint_every_n_steps", type=int, default=500)
        parser.add_argument(
            "--monitor", type=str | None, default=None, help="metric that decides best.ckpt"
        )
        parser.add_argument("--monitor_mode", type=Literal["min", "max"], default="min")

    def before_instantiate_classes(self) -> None:
        """Find the run folder and point the checkpoint and the loggers to it."""
        section = self.config[self.subcommand]
        self._text = self._subcommand_parsers[str(self.subcommand)].dump(section, skip_none=False)
        self._plain: dict[str, Any] = yaml.safe_load(self._text)
        self._plain.pop("fresh", None)
        self._text = yaml.safe_dump(self._plain, sort_keys=False)
        runs_dir, name = Path(section["runs_dir"]), section["run_name"]
        if self.subcommand == "fit":
            self._run = self._fit_folder(runs_dir, name, bool(section["fresh"]))
        else:
            self._run = self._evaluation_folder(runs_dir, name)
        if "weights_only" in section:
            section["weights_only"] = True
        section["trainer"]["logger"] = self._with_run_folder(section["trainer"].get("logger"))
        if section["trainer"].get("default_root_dir") is None:
            section["trainer"]["default_root_dir"] = str(self._run.path)

    def _fit_folder(self, runs_dir: Path, name: str, fresh: bool) -> RunFolder:
        # Rank 0 decides. The others start later or wait for it to join the process group, so all
        # see the same last.ckpt; with --fresh it may not be moved away yet, and none may use it.
        section = self.config["fit"]
        if _is_rank_zero():
            run = open_run(runs_dir, name, self._plain, fresh=fresh)
            SagittalCLI._lock = run.lock
        else:
            run = folder_of(runs_dir, name, self._plain)
        self._first_step = 0
        if run.last.is_file() and not fresh:
            self._first_step = int(ours.read_checkpoint(run.last)["global_step"])
            section["ckpt_path"] = str(run.last)
            _say(f"resuming {run.path} at step {self._first_step}")
        else:
            _say(f"run folder {run.path}")
        return run

    def _evaluation_folder(self, runs_dir: Path, name: str) -> RunFolder:
        section = self.config[self.subcommand]
        found = find_run(runs_dir, name, self._plain)
        if section.get("ckpt_path") is None:
            if found is None:
                raise ConfigError(
                    f"no run {name} with this model, data and seed in {runs_dir}; fit it first or"
                    " give --ckpt_path"
                )
            section["ckpt_path"] = str(found.best if found.best.is_file() else found.last)
        _say(f"checkpoint {section['ckpt_path']}")
        self._first_step = 0
        return found or folder_of(runs_dir, name, self._plain)

    def _with_run_folder(self, logger: Any) -> Any:
        """Fill in where Weights & Biases writes and how the run is called, unless given."""
        for one in logger if isinstance(logger, list) else [logger]:
            path = one.get("class_path", "") if hasattr(one, "get") else ""
            if path.rpartition(".")[2] == "WandbLogger":
                options = one["init_args"]
                self._run.path.mkdir(parents=True, exist_ok=True)
                if options.get("save_dir") in (None, "."):
                    options["save_dir"] = str(self._run.path)
                if options.get("name") is None:
                    options["name"] = self._run.path.name
                # By itself W&B records the command line and the terminal: both hold paths.
                os.environ.setdefault("WANDB_X_DISABLE_META", "true")
                os.environ.setdefault("WANDB_CONSOLE", "off")
        return logger

    def instantiate_classes(self) -> None:
        """Make model, data and trainer.

        Raises:
            ConfigError: For a value that one of them refuses, or a device that is not there.
        """
        try:
            with mistakes_named(str(self.subcommand)):
                super().instantiate_classes()
        except MisconfigurationException as error:
            raise ConfigError(f"trainer: {error}") from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add the metrics table, the checkpoints, the guards and the progress display."""
        settings = self._get(self.config_init, "trainer")
        section = self.config[self.subcommand]
        logger = settings.get("logger")
        if logger is not False:
            table = "metrics.csv" if self.subcommand == "fit" else f"{self.subcommand}.csv"
            given = logger if isinstance(logger, list) else [logger]
            others = [one for one in given if one not in (None, True)]
            self._run.path.mkdir(parents=True, exist_ok=True)
            kwargs["logger"] = [
                RunLogger(self._run.path / table, self._first_step),
                *others,
            ]
        plugins = settings.get("plugins") or []
        kwargs["plugins"] = [
            *(plugins if isinstance(plugins, list) else [plugins]),
            ours.AtomicCheckpointIO(),
        ]
        extra: list[pl.Callback] = [
            ours.StepSeed(int(section["seed_everything"])),
            ours.FiniteLoss(),
            ours.UnevenEvaluation(),
            ours.SaveConfig(self._run.path / "config.yaml", self._text, self._plain),
        ]
        if settings.get("enable_checkpointing") is not False:
            every, monitor = section["checkpoint_every_n_steps"], section["monitor"]
            mode = section["monitor_mode"]
            extra.append(ours.RunCheckpoint(self._run.checkpoints, every, monitor, mode))
        if settings.get("enable_progress_bar") is not False and not any(
            isinstance(c, ProgressBar) for c in _as_list(settings.get("callbacks"))
        ):
            extra.append(RichProgressBar() if sys.stdout.isatty() else ours.PlainProgress())
        kwargs["callbacks"] = [*_as_list(settings.get("callbacks")), *extra]
        return self.trainer_class(**{**settings, **kwargs})

    def after_fit(self) -> None:
        """Mark the run as finished; an interrupted or failed fit does not come here."""
        if self.trainer.is_global_zero:
            self._run.mark("finished", self._plain)
            _say(f"finished {self._run.path}")
        self._report()
        self.release()

    def after_test(self) -> None:
        """Add the test's metrics and pictures to the run's report."""
        self._report()

    def _report(self) -> None:
        if self.trainer.is_global_zero:
            from sagittal_core.run_report import write_run_report

            self._run.path.mkdir(parents=True, exist_ok=True)
            facts: dict[str, Any] = getattr(self.datamodule, "facts", dict)()
            _say(f"report {write_run_report(self._run.path, self._plain, facts)}")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_rank_zero() -> bool:
    # Lightning sets this from RANK, LOCAL_RANK or SLURM_PROCID at import.
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


@rank_zero_only
def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
