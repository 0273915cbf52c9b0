"""``sagittal-mri compare``: trained models against classical reconstructions on held-out scans."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sagittal_core.errors import ConfigError
from sagittal_core.privacy import command_line, is_path, without_paths
from sagittal_core.report import Report
from sagittal_core.results import Table, write_results
from sagittal_core.stats import bootstrap_interval
from sagittal_mri.baselines import cg_sense, tune_cg_sense
from sagittal_mri.data.batch import Scans
from sagittal_mri.data.datamodule import SimulatedMRI
from sagittal_mri.data.measured import MeasuredMRI
from sagittal_mri.data.measured_scans import MeasuredScans
from sagittal_mri.data.simulate import SimulatedScans
from sagittal_mri.data.simulate_radial import SimulatedRadialMRI, SimulatedRadialScans
from sagittal_mri.metrics import nrmse, psnr, ssim
from sagittal_mri.physics.sense import CartesianSense
from sagittal_mri.pictures import panel
from sagittal_mri.runs import find_run, load_model

Data = SimulatedMRI | SimulatedRadialMRI | MeasuredMRI
ScanList = SimulatedScans | SimulatedRadialScans | MeasuredScans
METRICS = {"PSNR (dB)": psnr, "SSIM": ssim, "NRMSE": nrmse}
Scores = dict[str, dict[str, list[float]]]  # method -> metric -> one value per scan


def compare(
    data: Data,
    runs: dict[str, str],
    out: Path = Path("outputs/compare"),
    reference_run: str = "supervised",
    other_anatomy: str | None = None,
) -> None:
    """Compare trained runs with zero-filled and tuned CG-SENSE; write report.html and results.json.

    CG-SENSE's lambda and iterations are tuned on the validation scans, per acceleration. PSNR, SSIM
    and NRMSE are those of magnitude images inside the head, with 95 % bootstrap intervals over
    scans. Slices of one volume are not independent: the intervals speak of slices, not of patients.

    Args:
        data: the data module whose test scans are reconstructed; of measured files, fully sampled
            ones with ``accelerations``.
        runs: label and run-folder prefix of each trained model.
        out: folder of the results.
        reference_run: the run that the others' PSNR is compared with.
        other_anatomy: another image to test on: a path or the name of sample data; for simulated
            data only.

    Raises:
        ConfigError: if the data has no references, or no validation or test scans.
    """
    data.setup()
    _expect_references(data)
    models = {label: load_model(find_run(Path(prefix))) for label, prefix in runs.items()}
    start = time.monotonic()
    tuned = _tune(data)
    groups: dict[str, tuple[ScanList, float]]
    groups = {f"held-out slices, R = {r:g}": (data.scans["test"], r) for r in data.accelerations}
    if other_anatomy:
        if isinstance(data, MeasuredMRI):
            raise ConfigError("compare: other_anatomy is simulated; leave it out for MeasuredMRI")
        other = data.other_scans(other_anatomy)
        name = "other anatomy" if is_path(other_anatomy) else other_anatomy
        groups |= {f"{name}, R = {r:g}": (other, r) for r in data.accelerations}

    report = Report("UNITS: trained reconstruction against classical methods")
    tables: dict[str, Table] = {}
    for name, (scans, acceleration) in groups.items():
        chosen = [i for i in range(len(scans)) if scans.acceleration(i) == acceleration]
        print(f"comparing on {name}: {len(chosen)} scans", flush=True)
        scores, (picture, caption) = _evaluate(
            scans, chosen, models, tuned[acceleration], data.quarter_turns
        )
        report.picture(name, picture, f"the middle scan; {caption}")
        tables |= _tabulate(report, name, scores, len(chosen), reference_run)
    report.text(_explain(tuned, data, models))
    report.config(without_paths({"data": dict(_plain(vars(data))), "runs": runs}))
    out.mkdir(parents=True, exist_ok=True)
    report.write(out / "report.html")
    write_results(
        out / "results.json",
        command=command_line("sagittal-mri", sys.argv[1:]),
        seeds=[data.seed],
        n={"volumes": _volumes(data), "held-out slices": len(data.scans["test"])},
        tables=tables,
    )
    print(f"compared in {time.monotonic() - start:.0f} s: {out / 'report.html'}", flush=True)


def _expect_references(data: Data) -> None:
    """CG-SENSE is tuned on validation scans, and every method measured on test scans."""
    if not data.accelerations:
        raise ConfigError("compare: undersampled files have no reference; set data's accelerations")
    for role in ("val", "test"):
        if role not in data.scans:
            raise ConfigError(f"compare: data.init_args.{role} is not set")
        if len(data.scans[role]) < len(data.accelerations):
            raise ConfigError(f"compare: {role} has fewer slices than there are accelerations")


def _volumes(data: Data) -> int:
    """Volumes that the test slices come from."""
    return len(data.scans["test"].files) if isinstance(data, MeasuredMRI) else 1


def _tune(data: Data) -> dict[float, tuple[float, int, float]]:
    """Best (lambda, iterations, validation PSNR) of CG-SENSE per acceleration."""
    scans, tuned = data.scans["val"], {}
    for acceleration in data.accelerations:
        chosen = [i for i in range(len(scans)) if scans.acceleration(i) == acceleration]
        tuned[acceleration] = tune_cg_sense(scans[i] for i in chosen)
        lam, iterations, score = tuned[acceleration]
        print(
            f"CG-SENSE tuned on {len(chosen)} validation scans at R = {acceleration:g}: "
            f"lambda {lam:g}, {iterations} iterations, {score:.2f} dB",
            flush=True,
        )
    return tuned


@torch.no_grad()
def _reconstruct(
    scan: Scans, models: dict[str, Any], tuned: tuple[float, int, float]
) -> dict[str, torch.Tensor]:
    """Magnitude images ``(1, H, W)`` of every method, the classical ones first."""
    operator, rhs = scan.operator(), scan.adjoint()
    images = {
        "zero-filled" if isinstance(operator, CartesianSense) else "gridded": rhs.abs(),
        "CG-SENSE": cg_sense(operator, rhs, tuned[0], tuned[1]).abs(),
    }
    return images | {label: model(scan).abs() for label, model in models.items()}


def _evaluate(
    scans: ScanList,
    chosen: list[int],
    models: dict[str, Any],
    tuned: tuple[float, int, float],
    quarter_turns: int,
) -> tuple[Scores, Any]:
    """Metrics of every method on every scan, and the middle one's picture with its caption."""
    scores: Scores = {}
    shown = None
    for index in chosen:
        scan = scans[index]
        images = _reconstruct(scan, models, tuned)
        for method, image in images.items():
            of_method = scores.setdefault(method, {metric: [] for metric in METRICS})
            for metric, function in METRICS.items():
                of_method[metric].append(float(function(image, scan.reference, scan.body)))
        if index == chosen[len(chosen) // 2]:
            middle = {method: image[0] for method, image in images.items()}
            shown = panel(middle, scan.reference[0], quarter_turns=quarter_turns)
    return scores, shown


def _tabulate(report: Report, name: str, scores: Scores, n: int, baseline: str) -> dict[str, Table]:
    """Add the tables of one group of scans to the report; return them for the result file."""
    rows = [
        [method, *(_cell(m, np.array(v)) for m, v in by_metric.items())]
        for method, by_metric in scores.items()
    ]
    key, gains = "PSNR (dB)", []
    for method in scores:
        if method in ("zero-filled", "gridded", "CG-SENSE"):
            continue
        for other in ("CG-SENSE", baseline):
            if other in scores and other != method:
                gain = np.array(scores[method][key]) - np.array(scores[other][key])
                gains.append([f"{method} - {other}", _cell(key, gain)])
                print(f"  {gains[-1][0]}: {gains[-1][1]} dB", flush=True)
    caption = f"mean and 95 % bootstrap interval over {n} scans"
    if n < 2:
        caption = "one scan, hence no interval"
    columns, paired = ["method", *METRICS], ["paired difference", key]
    report.table(name, columns, rows, caption)
    report.table(f"{name}: paired differences", paired, gains, caption)
    slug = re.sub(r"[^a-z0-9.]+", "-", name.lower())
    return {slug: (columns, rows), f"{slug}-differences": (paired, gains)}


def _cell(metric: str, values: np.ndarray) -> str:
    """Mean with its interval, as text; a single scan has none."""
    digits = 2 if metric == "PSNR (dB)" else 4
    if len(values) < 2:
        return f"{float(values[0]):.{digits}f} (one scan)"
    interval = bootstrap_interval(values)
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(
        interval.estimate, interval.low, interval.high, d=digits
    )


def _explain(
    tuned: dict[float, tuple[float, int, float]], data: Data, models: dict[str, Any]
) -> str:
    """What the reader has to know to trust the figures."""
    chosen = "; ".join(f"R = {r:g}: lambda {v[0]:g}, {v[1]} iterations" for r, v in tuned.items())
    origin = "Simulated multi-coil k-space of a real magnitude image."
    slices = "The scans are slices of one volume: the intervals speak of its slices"
    counted = "where the object is not zero"
    if isinstance(data, MeasuredMRI):
        origin = (
            "Measured k-space, undersampled retrospectively; the reference is all of it, with its "
            "noise."
        )
        slices = f"The scans are slices of {_volumes(data)} files: the intervals speak of slices"
        counted = "above 10 % of the reference's 99th percentile"
    blind = [label for label, model in models.items() if not model.partition.supervised]
    saw = f"Trained without fully sampled scans: {', '.join(blind)}. " if blind else ""
    return (
        f"{origin} Every method's coil maps come from the noisy calibration samples. "
        f"{saw}CG-SENSE was tuned on validation slices ({chosen}). Metrics count the pixels "
        f"{counted}: PSNR is 20 log10 of the reference slice's maximum over the RMSE, SSIM has "
        "windows of 7 x 7 and that maximum as range, NRMSE is the norm of the error over that of "
        "the reference. "
        f"{slices}, not of patients."
    )


def _plain(values: dict[str, Any]) -> list[tuple[str, Any]]:
    """The data module's own settings, without Lightning's and without the loaded scans."""
    kinds = (str, int, float, list, tuple, type(None))
    return [(k, v) for k, v in values.items() if isinstance(v, kinds) and not k.startswith("_")]
