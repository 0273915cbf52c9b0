"""SAIL from files to figures: a pretrained encoder beside its random twin, on real images.

``python benchmarks/study_sail.py radiographs --table labels.csv --images FOLDER`` and ``... volumes
--scans FOLDER`` run the commands that a user types (slice, embed, fit, evaluate, explain) with the
package's own configs, and gather what they measured in ``results/sail_<part>.json``. Every command
goes on where it was, so a killed study does too. ``--language-model smollm2`` has the
encoder's features named and judged by a language model, too, in three ways: see ``LANGUAGE``.

Hypothesis: features of the pretrained encoder mean something, those of its randomly initialised
twin less. Independent units are patients (radiographs) and volumes; the outcome that may fail is
each measure by which the two should differ. The check that must pass is that names found by rule
are recognised on held-out images more often than by chance.

Of the volumes three have masks, and organs are in two of them: those of the CT of a trunk are
learned, those of the MR of another are judged. No third one is left to choose C on, so blocks of
the training scans do (``choose_on: train``); features are named by images, not by subjects, and
the names are judged on the other scan. Test has two subjects: figures have no intervals over
subjects.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import yaml

from sagittal_core.results import Table, read_results, write_results
from sagittal_core.store import EmbeddingStore
from sagittal_genai.cli import run

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "packages" / "genai" / "configs"
BOTH = ("encoder", "twin")


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
    print(f"== sagittal-genai {verb} -c {file.name}", flush=True)
    if (status := run([verb, "-c", str(file)])) not in (0, 3):
        raise SystemExit(status)


def slice_radiographs(args: argparse.Namespace) -> dict[str, Any]:
    """Settings of `slice` for a table of radiographs."""
    settings = config("slice_radiographs")
    settings["sources"][0]["init_args"] |= {"table": str(args.table), "images": str(args.images)}
    return settings


def slice_volumes(args: argparse.Namespace) -> dict[str, Any]:
    """Settings of `slice` for the public volumes and the two scans with organ masks."""
    settings = config("slice_volumes")
    body = [
        ("totalseg_ct", "example_ct_sm", "example_seg", "total", "CT", "train"),
        ("totalseg_mr", "example_mr_sm", "example_seg_mr", "total_mr", "MR", "test"),
    ]
    settings["sources"][0]["init_args"]["volumes"] += [
        {
            "image": str(args.scans / f"{image}.nii.gz"),
            "modality": modality,
            "name": name,
            "split": split,
            "labels": str(args.scans / f"{labels}.nii.gz"),
            "classes": f"{args.classes}:{task}",
            "metadata": {"body_part": "trunk", "study_type": "ct thorax-abdomen-pelvis"}
            if modality == "CT"
            else {"body_part": "trunk", "sequence": "T1"},
        }
        for name, image, labels, task, modality, split in body
    ]
    return settings


def fit(part: str, store: Path, name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Settings of `fit`; pooled rows are few, so their dictionary is small."""
    settings = config("sae_topk" if part == "radiographs" else "sae_batchtopk")
    settings |= {"run_name": name, "runs_dir": str(args.out / part / "runs")}
    settings["seed_everything"] = seed
    settings["data"]["init_args"] |= {"store": str(store), "seed": seed}
    network = settings["model"]["init_args"]["network"]["init_args"]
    network["seed"] = seed
    settings["trainer"] |= {"enable_model_summary": False, "max_epochs": 12}
    if part == "radiographs":
        network["n_features"] = 256
        network["activation"]["init_args"]["k"] = 16
        settings["data"]["init_args"]["batch_size"] = 240
        settings["model"]["init_args"]["dead_after"] = 24_000
        settings["trainer"] |= {"max_epochs": 120, "check_val_every_n_epoch": 40}
    return settings


def study(part: str, args: argparse.Namespace) -> None:
    """Run all commands of one part and write its results."""
    out = args.out / part
    do("slice", {"radiographs": slice_radiographs, "volumes": slice_volumes}[part](args)
       | {"out": str(out / "slices")}, out / "slice.yaml")  # fmt: skip
    embedding = config("embed_radiographs" if part == "radiographs" else "embed_tokens")
    embedding |= {"batch_size": 2}  # the fastest on a processor's few cores
    if part == "volumes":
        embedding["encoder"]["image_size"] = 448  # 14 x 14 patches: over 100,000 in all
    embedding |= {"slices": str(out / "slices"), "out": str(out / "embeddings")}
    do("embed", embedding, out / "embed.yaml")
    stores = {"encoder": out / "embeddings", "twin": out / "embeddings-random"}
    for which in BOTH:
        for seed in range(args.seeds):
            name = f"{which}-{seed}"
            do("fit", fit(part, stores[which], name, seed, args), out / f"fit-{name}.yaml")
    evaluation = config(f"evaluate_{'radiographs' if part == 'radiographs' else 'tokens'}")
    evaluation["sources"] = {
        label: {
            "store": str(stores[which]),
            "runs": [str(out / "runs" / f"{which}-{seed}") for seed in range(args.seeds)],
        }
        for label, which in (("EfficientNet-Lite0", "encoder"), ("random twin", "twin"))
    }
    evaluation |= {"control": "random twin", "out": str(out / "evaluation")}
    do("evaluate", evaluation, out / "evaluate.yaml")
    for which in reversed(BOTH):  # the twin first: the other stands beside it
        explanation = config(f"explain_{'radiographs' if part == 'radiographs' else 'tokens'}")
        explanation |= {
            "store": str(stores[which]),
            "codes": str(out / "codes" / which),
            "autoencoder": str(out / "runs" / f"{which}-0"),
            "slices": str(out / "slices"),
            "out": str(out / f"explained-{which}"),
        }
        if which == "encoder":
            explanation["twin"] = str(out / "explained-twin")
        do("explain", explanation, out / f"explain-{which}.yaml")
    if args.language_model:
        init = {"path": args.language_model}
        llm = {"class_path": "sagittal_core.llm.LocalModel", "init_args": init}
        for way, changes in LANGUAGE.items():
            asked = {name: _with(value, llm) for name, value in changes.items()}
            folder = {"out": str(out / f"explained-{way}"), "features": 50}
            do("explain", explanation | asked | folder, out / f"explain-{way}.yaml")
    gather(part, out, args)


# What a language model does: writes names, chooses among the images' concepts, judges the rule's.
LANGUAGE: dict[str, dict[str, Any]] = {
    "written": {"llm": "MODEL"},
    "chosen": {"llm": "MODEL", "naming": "choose"},
    "judged": {"judge": {"class_path": "ChoiceJudge", "init_args": {"llm": "MODEL"}}},
}
NAMED = {
    "explained-encoder": "EfficientNet-Lite0, by rule",
    "explained-twin": "random twin, by rule",
    "explained-written": "EfficientNet-Lite0, written by {}",
    "explained-chosen": "EfficientNet-Lite0, chosen by {}",
    "explained-judged": "EfficientNet-Lite0, by rule, judged by {}",
}


def _with(value: Any, llm: dict[str, Any]) -> Any:
    """The value with the model in its place."""
    if isinstance(value, dict):
        return {name: _with(one, llm) for name, one in value.items()}
    return llm if value == "MODEL" else value


def names_table(out: Path, model: str | None) -> Table:
    """How features were named, judged and found, one row a way."""
    rows = []
    for folder, label in NAMED.items():
        asked = folder.removeprefix("explained-") in LANGUAGE
        if (asked and not model) or not (out / folder / "results.json").is_file():
            continue
        tables = read_results(out / folder / "results.json")["tables"]
        cells = {t: {row[0]: row[1:] for row in tables[t]["rows"]} for t in tables}
        outcomes = {outcome: count for outcome, (count, *_) in cells["names"].items()}
        judge = cells.get("judge", {})
        verdicts = [
            f"{judge[m][0]}, n = {judge[m][2]}" if m in judge else "not judged"
            for m in ("rank <= 2", "rank 1")
        ]
        found = cells.get("search", {}).get("features")
        chance = cells.get("search", {}).get("random choice")
        rows.append(
            [
                label.format(Path(model or "").stem),
                f"{outcomes.get('named', 0)} of {sum(outcomes.values())}",
                *verdicts,
                found[0] if found else "no query",
                chance[0] if chance else "",
            ]
        )
    columns = ["names", "named", "judge: rank <= 2 (chance 40 %)", "rank 1 (20 %)"]
    return [*columns, "precision@10 of labels as queries", "of a random choice"], rows


def scans_table(out: Path) -> Table:
    """Every volume: whose it is, what it is for, and which organs cover patches of it."""
    store = EmbeddingStore(out / "embeddings")
    columns = ["scan", "subject", "modality", "body_part", "split", "image", "organs"]
    rows = []
    for scan, of in store.index(columns).groupby("scan", sort=True):
        first = of.iloc[0]
        masks = of["organs"].dropna()
        organs = sorted({str(one) for found in masks for one in found})
        said = ", ".join(organs) if len(organs) < 4 else f"{len(organs)} organs"
        known = [first["subject"], first["modality"], first["body_part"], first["split"]]
        counts = [of["image"].nunique(), len(of)]
        rows.append([scan, *known, *counts, said or ("none" if len(masks) else "no mask")])
    named = ["scan", "subject", "modality", "of", "split", "slices", "patches", "organs"]
    return named, sorted(rows, key=lambda row: ["train", "val", "test"].index(row[4]))


def gather(part: str, out: Path, args: argparse.Namespace) -> None:
    """One result file from those of the verbs."""
    evaluated = read_results(out / "evaluation" / "results.json")
    tables = {"names": names_table(out, args.language_model)}
    n = dict(evaluated["n"])
    if part == "volumes":
        tables["scans"] = scans_table(out)
        n["volumes"] = len(tables["scans"][1])
    for name, content in evaluated["tables"].items():
        slug = re.sub(r"[^a-z0-9.]+", "-", name.lower())
        tables[slug] = (content["columns"], content["rows"])
    search = read_results(out / "explained-encoder" / "results.json")["tables"]
    for name in ("search", "search-differences"):
        if name in search:
            tables[name] = (search[name]["columns"], search[name]["rows"])
    write_results(
        ROOT / "results" / f"sail_{part}.json",
        command=f"python benchmarks/study_sail.py {part} ..."
        + (f" --language-model {args.language_model}" if args.language_model else ""),
        seeds=list(range(args.seeds)),
        n=n,
        tables=tables,
    )
    print("\n".join(tables))


def main() -> None:
    """Read the command line and run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["radiographs", "volumes"])
    parser.add_argument("--table", type=Path, help="radiographs: CSV as of ChestX-ray14")
    parser.add_argument("--images", type=Path, help="radiographs: folder of the images")
    parser.add_argument(
        "--scans", type=Path, help="volumes: folder with TotalSegmentator's samples"
    )
    parser.add_argument(
        "--classes",
        default="totalsegmentator",
        help="volumes: TotalSegmentator's package, or the path of its map_to_binary.py",
    )
    parser.add_argument(
        "--language-model",
        help="also name and judge with this model: a folder, a GGUF file or sample data (smollm2)",
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/study_sail"))
    study((args := parser.parse_args()).part, args)


if __name__ == "__main__":
    main()
