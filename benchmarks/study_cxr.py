"""CheXficient from files to figures: curated, random and full pretraining under one protocol.

``python benchmarks/study_cxr.py --radiographs FOLDER --lungs FOLDER`` runs the commands that a user
types (index, fit, evaluate) with the package's own configs and gathers what they measured in
``results/study_cxr.json``. Every command goes on where it was, so a killed study does too.

Hypothesis (the paper's): training on the share of pairs that prototype curation keeps is as good as
training on all of them, on rare findings above all. Data: radiographs of ChestX-ray14 with
pseudo-reports from their labels, split by patient; independent units are patients. Controls: the
same share drawn at random, two other selectors, and the encoders before any pretraining; "curated,
thinned" is the variation that keeps fewer near-duplicates (``study_curation.py``), "curated, sigma"
the rule of the later released code, with 6 prototypes like the others: with its 32 they would have
two pairs each in a batch of 64. The check that must pass: pretraining on everything makes zero-shot
classification better than the encoders before it. The outcome that may fail: curated at least as
good as everything on the pooled tail.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
import yaml
from safetensors.torch import load_file

from sagittal_core.resampling import interval
from sagittal_core.results import Cell, Table, write_results
from sagittal_core.runs import find_run
from sagittal_cxr.cli import run
from sagittal_cxr.tasks.summary import shown, verdict

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "packages" / "cxr" / "configs"
RATIO = 0.227  # of all pairs, as published
SELECTORS: dict[str, dict[str, Any] | None] = {
    "everything": None,
    "curated": {"class_path": "PrototypeSelector", "init_args": {"warmup_batches": 4}},
    "curated, thinned": {
        "class_path": "PrototypeSelector",
        "init_args": {"warmup_batches": 4, "thin": "radius", "memory": 4096},
    },
    "curated, sigma": {
        "class_path": "PrototypeSelector",
        "init_args": {"warmup_batches": 4, "bands": "sigma"},
    },
    "random": {"class_path": "RandomSelector", "init_args": {}},
    "SemDeDup": {"class_path": "SemDeDupSelector", "init_args": {}},
    "CLIP score": {"class_path": "CLIPScoreSelector", "init_args": {}},
}
BEFORE = "before pretraining"
TUNED = ("macro AUROC", "head AUROC", "tail AUROC")
SPENT = ("pairs_loaded", "pairs_trained", "seconds")
FIGURES = [
    ("zero-shot", "macro AUROC", "zero-shot, mean AUROC"),
    ("zero-shot", "tail AUROC", "zero-shot, tail AUROC"),
    ("linear probe", "macro AUROC", "probe, mean AUROC"),
    ("linear probe", "tail AUROC", "probe, tail AUROC"),
    ("retrieval", "image to text R@5", "image to text R@5"),
    ("retrieval", "text to image R@5", "text to image R@5"),
]


def config(name: str) -> dict[str, Any]:
    """One of the package's configs."""
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def do(verb: str, settings: dict[str, Any], file: Path) -> None:
    """Write the settings and run the verb; a finished run counts as done.

    Raises:
        SystemExit: It failed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    print(f"== sagittal-cxr {verb} -c {file.name}", flush=True)
    if (status := run([verb, "-c", str(file)])) not in (0, 3):
        raise SystemExit(status)


def index(name: str, root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Settings of `index` for one folder, held-out patients for two fifths."""
    settings = config("index_sample")
    settings["datasets"] = [
        d | {"root": str(root)} for d in settings["datasets"] if d["name"] == name
    ]
    settings["split"] = {"val_share": 0.05, "test_share": 0.4, "seed": 0}
    settings["out"] = str(args.out / f"index-{name}")
    return settings


def fit(arm: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Settings of `fit` for one arm."""
    settings = config("chexficient_small")
    settings |= {"run_name": run_name(arm, seed), "runs_dir": str(args.out / "runs")}
    settings["seed_everything"] = seed
    selector = SELECTORS[arm]
    if selector is not None:
        own = {"ratio": RATIO, "seed": seed} if "seed" in accepted(selector) else {"ratio": RATIO}
        selector = {**selector, "init_args": {**selector["init_args"], **own}}
    model = settings["model"]["init_args"]
    model["selector"] = selector
    model["network"]["init_args"]["vision"]["init_args"]["encoder"]["image_size"] = args.image_size
    settings["data"]["init_args"] |= {
        "index": str(args.out / "index-nih"),
        "duplicates": "keep",
        "cache": str(args.out / "images"),
        "seed": seed,
    }
    settings["trainer"] |= {
        "max_epochs": args.epochs,
        "enable_model_summary": False,
        "limit_val_batches": 0,
    }
    return settings


def accepted(selector: dict[str, Any]) -> list[str]:
    """Names of a selector's arguments."""
    import inspect

    from sagittal_cxr import registry

    return list(inspect.signature(getattr(registry, selector["class_path"])).parameters)


def run_name(arm: str, seed: int) -> str:
    """Of an arm's run."""
    return f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"


def evaluation(args: argparse.Namespace) -> dict[str, Any]:
    """Settings of `evaluate`: every run on held-out patients."""
    models = {
        f"{arm} {seed}": {"path": str(args.out / "runs" / run_name(arm, seed))}
        for arm in SELECTORS
        for seed in range(args.seeds)
    }
    models[BEFORE] = {"path": str(args.out / "before")}
    benchmark = {
        "name": "held-out patients",
        "index": str(args.out / "index-nih"),
        "split": "test",
        "exposure": "none",
        "cohort": "radiographs of ChestX-ray14; Pneumonia goes with the AP view in this selection",
    }
    tasks = [
        {"class_path": "ZeroShot", "init_args": {"families": ["report", "published", "sentence"]}},
        {"class_path": "Retrieval", "init_args": {"at": [1, 5, 10], "templates": True}},
        {"class_path": "LinearProbe", "init_args": {"fractions": [1.0]}},
    ]
    return {
        "models": models,
        "reference": "everything 0",
        "benchmarks": [benchmark],
        "tasks": tasks,
        "out": str(args.out / "evaluation"),
    }


def dense(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Settings of `evaluate` for what is slow: lungs and reports, for the first seed."""
    lungs, reports = evaluation(args), evaluation(args)
    arms = {
        "lungs": ("everything 0", "curated 0", "random 0", BEFORE),
        "reports": ("everything 0", "curated 0"),
    }
    for name, settings in (("lungs", lungs), ("reports", reports)):
        settings["models"] = {n: settings["models"][n] for n in arms[name]}
        settings["out"] = str(args.out / name)
    lungs["benchmarks"] = [
        {
            "name": "lung fields",
            "index": str(args.out / "index-lungs"),
            "exposure": "none",
            "cohort": "radiographs of covid-chestxray-dataset with masks of the lungs",
        }
    ]
    lungs["tasks"] = [{"class_path": "Segmentation", "init_args": {"folds": 5, "epochs": 15}}]
    settings = {
        "language": "smollm2",
        "references": "any",
        "side": 2,
        "train_rows": 300,
        "test_rows": 80,
        "epochs": 2,
    }
    reports["tasks"] = [{"class_path": "ReportGeneration", "init_args": settings}]
    return [lungs, reports]


def fine_tuning(args: argparse.Namespace) -> dict[str, Any]:
    """Settings of `evaluate` that train the whole vision encoder on labels, for the first seed."""
    settings = evaluation(args)
    names = ("everything 0", "curated 0", BEFORE)
    settings["models"] = {name: settings["models"][name] for name in names}
    options = {
        "epochs": 4,
        "step_images": 16,
        "learning_rate": 1e-4,
        "checkpoint_every_n_steps": 10,
    }
    settings["tasks"] = [{"class_path": "FineTuning", "init_args": options}]
    return settings | {"out": str(args.out / "fine-tuning")}


def before(args: argparse.Namespace) -> None:
    """Export the encoders as they are before any training, with projections drawn by the seed."""
    from sagittal_core.encoders import VisionSpec
    from sagittal_cxr.nn.image_text import ImageTextModel
    from sagittal_cxr.nn.text import TextEncoder
    from sagittal_cxr.nn.vision import ImageEncoder
    from sagittal_cxr.runs import save_image_text

    if (args.out / "before").exists():
        return
    torch.manual_seed(0)
    network = config("chexficient_small")["model"]["init_args"]["network"]["init_args"]
    encoder = network["vision"]["init_args"]["encoder"] | {"image_size": args.image_size}
    model = ImageTextModel(
        ImageEncoder(VisionSpec(**encoder)),
        TextEncoder(**network["text"]["init_args"]),
        dim=network["dim"],
        temperature=network["temperature"],
    )
    save_image_text(model.eval(), args.out / "before")


def measures(out: Path) -> dict[tuple[str, str, str], tuple[float, np.ndarray]]:
    """(model, task, measure) to estimate and resamples, of the measures over all findings."""
    found = {}
    for file in sorted((out / "cells").rglob("cell.json")):
        cell = yaml.safe_load(file.read_text())
        draws = load_file(file.parent / "draws.safetensors")
        model, task = file.parts[-4], file.parent.name.rpartition("-")[0]
        for number, one in enumerate(cell["measures"]):
            if one["label"] is None and f"{number:05d}" in draws:
                values = draws[f"{number:05d}"].numpy()
                found[model, task, one["name"]] = (float(one["estimate"]), values)
    return found


def mean_over_seeds(
    found: dict[tuple[str, str, str], tuple[float, np.ndarray]],
    arm: str,
    task: str,
    name: str,
    seeds: int,
) -> tuple[float, np.ndarray, list[float]] | None:
    """Mean over seeds with its resamples of patients, and the figure of each seed."""
    from sagittal_cxr.tasks.cells import file_name

    names = [BEFORE] if arm == BEFORE else [f"{arm} {seed}" for seed in range(seeds)]
    parts = [found.get((file_name(n), file_name(task), name)) for n in names]
    if any(part is None for part in parts):
        return None
    estimates = [part[0] for part in parts]
    return float(np.mean(estimates)), np.mean([part[1] for part in parts], axis=0), estimates


def tables(args: argparse.Namespace) -> dict[str, Table]:
    """The arms side by side, their differences to everything and to random, and the cost."""
    found = measures(args.out / "evaluation")
    columns = ["arm", *(heading for _, _, heading in FIGURES)]
    rows: list[list[Cell]] = []
    for arm in [*SELECTORS, BEFORE]:
        row: list[Cell] = [arm]
        for task, name, _ in FIGURES:
            one = mean_over_seeds(found, arm, task, name, args.seeds)
            row.append("" if one is None else figure(*one))
        rows.append(row)
    differences: list[list[Cell]] = []
    for one, two in (
        ("curated", "everything"),
        ("curated", "random"),
        ("curated, thinned", "random"),
        ("curated, sigma", "random"),
        ("curated, sigma", "curated"),
        ("SemDeDup", "random"),
        ("CLIP score", "random"),
        ("everything", BEFORE),
    ):
        row = [f"{one} - {two}"]
        for task, name, _ in FIGURES:
            a = mean_over_seeds(found, one, task, name, args.seeds)
            b = mean_over_seeds(found, two, task, name, args.seeds)
            if a is None or b is None:
                row.append("")
                continue
            ends = interval(a[1] - b[1])
            row.append(f"{shown(a[0] - b[0], *(ends or (None, None)))}, {verdict(ends)}")
        differences.append(row)
    tuned = overall(args.out / "fine-tuning", TUNED) if args.fine_tuning else None
    return {
        "arms": (columns, rows),
        "differences": (columns, differences),
        "cost": cost(args),
        "lungs": overall(args.out / "lungs", ("Dice",)),
        "reports": overall(args.out / "reports", ("rule_labels_f1 micro-14", "ROUGE-L")),
        **({"fine-tuning": tuned} if tuned else {}),
    }


def figure(estimate: float, draws: np.ndarray, seeds: list[float]) -> str:
    """Mean with its interval over patients, and the spread over seeds."""
    text = shown(estimate, *(interval(draws) or (None, None)))
    return text if len(seeds) < 2 else f"{text}, seeds {min(seeds):.3f} to {max(seeds):.3f}"


def cost(args: argparse.Namespace) -> Table:
    """What training took: pairs trained on, and seconds of training steps."""
    rows: list[list[Cell]] = []
    base: tuple[float, float] | None = None
    for arm in SELECTORS:
        parts = []
        for seed in range(args.seeds):
            log = pandas.read_csv(find_run(args.out / "runs" / run_name(arm, seed)) / "metrics.csv")
            parts.append([float(log[f"spent/{name}"].dropna().iloc[-1]) for name in SPENT])
        loaded, trained, seconds = np.mean(parts, axis=0)
        base = base or (trained, seconds)
        rows.append(
            [
                arm,
                f"{loaded:,.0f}",
                f"{trained:,.0f}",
                f"{100 * trained / base[0]:.1f} %",
                f"{seconds:.0f}",
                f"{100 * seconds / base[1]:.1f} %",
            ]
        )
    columns = ["arm", "pairs loaded", "pairs trained on", "of everything", "seconds"]
    return [*columns, "of its seconds"], rows


def overall(out: Path, wanted: tuple[str, ...]) -> Table:
    """Measures without a finding of one evaluation whose names begin so, a row each."""
    rows: list[list[Cell]] = []
    for (model, _, name), (value, draws) in measures(out).items():
        if name.startswith(wanted):
            shown_as = shown(value, *(interval(draws) or (None, None)))
            rows.append([model.replace("-", " "), name, shown_as])
    return ["model", "measure", "estimate"], rows


def main() -> None:
    """Run everything that is not there yet, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--radiographs", type=Path, required=True, help="labels.csv and images/")
    parser.add_argument("--lungs", type=Path, required=True, help="index.csv, images/ and masks/")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "study_cxr")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--image_size", type=int, default=160)
    parser.add_argument("--fine-tuning", action="store_true", help="also fine-tune three encoders")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "study_cxr.json")
    args = parser.parse_args()
    for name, root in (("nih", args.radiographs), ("lungs", args.lungs)):
        do("index", index(name, root, args), args.out / f"index-{name}.yaml")
    for seed in range(args.seeds):
        for arm in SELECTORS:
            do("fit", fit(arm, seed, args), args.out / f"fit-{run_name(arm, seed)}.yaml")
    before(args)
    do("evaluate", evaluation(args), args.out / "evaluate.yaml")
    for settings in [*dense(args), *([fine_tuning(args)] if args.fine_tuning else [])]:
        do("evaluate", settings, Path(f"{settings['out']}.yaml"))
    from sagittal_cxr.index import RadiographIndex

    nih = RadiographIndex(args.out / "index-nih").frame()
    test = nih[nih["split"] == "test"]
    found = tables(args)
    for name, (columns, rows) in found.items():
        print(f"\n{name}", *([" | ".join(map(str, row)) for row in [columns, *rows]]), sep="\n")
    write_results(
        args.results,
        command=(
            "python benchmarks/study_cxr.py --radiographs (path) --lungs (path)"
            f" --seeds {args.seeds} --epochs {args.epochs} --image_size {args.image_size}"
            + (" --fine-tuning" if args.fine_tuning else "")
        ),
        seeds=list(range(args.seeds)),
        n={
            "test patients": int(test["patient"].nunique()),
            "test radiographs": len(test),
            "training radiographs": int((nih["split"] == "train").sum()),
        },
        tables=found,
    )
    # The row's first figure: zero-shot, mean AUROC.
    check = next(row for row in found["differences"][1] if row[0] == f"everything - {BEFORE}")
    if not str(check[1]).endswith("higher"):
        raise SystemExit(f"the check that must pass failed: {check[0]}: {check[1]}")


if __name__ == "__main__":
    main()
