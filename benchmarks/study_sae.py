"""Trains every autoencoder of the package on one store and measures it on rows it never saw.

``python benchmarks/study_sae.py --store FOLDER``: R2, active features a row and the share of
features that no row uses, on validation and test rows, and that share on training rows. SAIL's
authors count the features in use in a batch of 2,048 validation rows: that number is there, too. A
killed study goes on where it was; ``--only`` names some of the configs; further options go to
``fit``. ``--steps N --batch-size B`` trains all of them for as many steps of small batches instead:
the decoder's norms, the bias and the threshold move with steps, not with rows, and thousands of
steps of 2,048 rows are out of a processor's reach.

``--published`` trains the code as released and Matryoshka with two of the published patterns of k,
each prefix choosing for itself in both, to compare the features in use with the published counts.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch

from sagittal_core.results import write_results
from sagittal_core.seeds import counter_generator
from sagittal_core.store import EmbeddingStore
from sagittal_genai.cli import run
from sagittal_genai.data import SPLITS, EmbeddingData, StoredRows
from sagittal_genai.metrics.fidelity import Fidelity
from sagittal_genai.nn.sae import SparseAutoencoder
from sagittal_genai.runs import load_autoencoder

CONFIGS = Path(__file__).resolve().parents[1] / "packages" / "genai" / "configs"
COLUMNS = [
    "config",
    "R2",
    "R2, one mean",
    "active a row",
    "unused, test",
    "R2, val",
    "unused, val",
    "in use, 2,048 of val",
    "unused, train",
]
BATCH = 2048
# Of SAIL's eight patterns the one that leaves the fewest features in use, and its best one.
PUBLISHED = ([5, 5, 5, 5], [20, 40, 80, 160])


class Arm(NamedTuple):
    """One autoencoder: its name, its config, and options of ``fit`` beside the config's."""

    name: str
    config: str
    options: tuple[str, ...] = ()


def shipped(only: list[str] | None) -> list[Arm]:
    """The package's configs, or those named."""
    names = [file.stem for file in sorted(CONFIGS.glob("sae_*.yaml"))]
    return [Arm(name, name) for name in names if only is None or name in only]


def published() -> list[Arm]:
    """The code as released, and Matryoshka whose prefixes choose alike, by pattern of k."""
    arms, network = [], "--model.init_args.network.init_args"
    for pattern in PUBLISHED:
        name = "-".join(map(str, pattern))
        compat = (f"{network}.k_values={pattern}",)
        ours = (
            f"{network}.prefix_k={pattern}",
            f"{network}.activation.init_args.k={pattern[-1]}",
        )
        for stem, options in (("sae_sail_compat", compat), ("sae_matryoshka", ours)):
            arms.append(Arm(f"{stem} k {name}", stem, (*options, f"--run_name={stem}-k-{name}")))
    return arms


@torch.no_grad()
def measure(network: SparseAutoencoder, data: EmbeddingData) -> dict[str, dict[str, float]]:
    """Metrics of each split."""
    found = {}
    for split in SPLITS:
        fidelity = Fidelity(network.W_d.shape[1], len(network.b_e))
        rows = data.rows[split]
        for start in range(0, len(rows), 4096):
            x = rows.store.rows(rows.numbers[start : start + 4096])
            out = network(x)
            fidelity.update(out.normalised, out.reconstructions[-1], out.codes)
        found[split] = {name: float(value) for name, value in fidelity.compute().items()}
    found["val"]["used_of_batch"] = used_of_batch(network, data.rows["val"])
    return found


@torch.no_grad()
def used_of_batch(network: SparseAutoencoder, rows: StoredRows) -> float:
    """Features that some row of a batch uses, as a mean over whole batches of random rows."""
    order = torch.randperm(len(rows), generator=counter_generator(0, "batches")).numpy()
    size = min(BATCH, len(rows))
    counts = []
    for start in range(0, len(rows) - size + 1, size):
        codes = network.encode(rows.store.rows(rows.numbers[order[start : start + size]]))
        counts.append(len(codes.indices[codes.values > 0].unique()))
    return sum(counts) / len(counts)


def line(name: str, found: dict[str, dict[str, float]]) -> list[str]:
    test, val = found["test"], found["val"]
    shares = [found[split]["unused_share"] for split in ("test", "val", "train")]
    on_test, on_val, on_train = (f"{100 * share:.1f} %" for share in shares)
    on_batch = f"{val['used_of_batch']:,.0f}"
    r2 = f"{test['r2']:.3f}", f"{test['r2_global']:.3f}"
    return [name, *r2, f"{test['l0']:.1f}", on_test, f"{val['r2']:.3f}", on_val, on_batch, on_train]


def length(args: argparse.Namespace) -> list[str]:
    """Options of ``fit`` that say how long it trains; none: as the configs say."""
    if args.steps is not None:
        options = ["--trainer.max_epochs=-1", f"--trainer.max_steps={args.steps}"]
        return [*options, "--trainer.limit_val_batches=0"]
    if args.epochs is not None:
        options = [f"--trainer.max_epochs={args.epochs}"]
        return [*options, f"--trainer.check_val_every_n_epoch={args.epochs}"]
    return []


def main() -> None:
    """Train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("outputs/study_sae"))
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--epochs", type=int, help="instead of those of the configs")
    ends.add_argument("--steps", type=int, help="instead of epochs")
    parser.add_argument("--batch-size", type=int, help="instead of that of the configs")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", help="names of configs, such as sae_topk")
    which.add_argument("--published", action="store_true", help="two published patterns of k")
    parser.add_argument("--results", type=Path)
    args, further = parser.parse_known_args()
    data = EmbeddingData(str(args.store))
    data.setup()
    lines = []
    for arm in published() if args.published else shipped(args.only):
        config = CONFIGS / f"{arm.config}.yaml"
        command = ["fit", "-c", str(config), f"--data.init_args.store={args.store}"]
        command += [f"--runs_dir={args.runs}", "--trainer.enable_model_summary=false", *arm.options]
        if args.batch_size is not None:
            command += [f"--data.init_args.batch_size={args.batch_size}"]
        command += [*length(args), *further]
        if run(command) not in (0, 3):  # 3: finished before
            raise SystemExit(f"{arm.name} did not train")
        folder = args.runs / arm.name.replace(" ", "-")
        lines.append(line(arm.name, measure(load_autoencoder(folder), data)))
        print(dict(zip(COLUMNS, lines[-1], strict=True)), flush=True)
    if args.results is not None:
        index = EmbeddingStore(args.store).index()
        n = {"subjects": int(index["subject"].nunique())} if "subject" in index else {}
        n |= {f"{split} rows": len(data.rows[split]) for split in SPLITS}
        command_line = "python benchmarks/study_sae.py --store FOLDER"
        for option in ("epochs", "steps", "batch_size"):
            if (value := getattr(args, option)) is not None:
                command_line += f" --{option.replace('_', '-')} {value}"
        command_line += " --published" if args.published else ""
        command_line += "" if args.only is None else f" --only {' '.join(args.only)}"
        command_line = " ".join([command_line, *further])
        tables = {"held-out-rows": (COLUMNS, lines)}
        write_results(args.results, command=command_line, seeds=[0], n=n, tables=tables)


if __name__ == "__main__":
    main()
