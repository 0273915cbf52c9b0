"""A million patients through PREVENT: all ten equations, and the first alone.

``python benchmarks/bench_prevent.py`` times :func:`sagittal_risk.equations.evaluate_many` on made
patients (columns of float64 with 1 % of values missing, units converted beforehand) and writes
``results/bench_prevent.json``. Checking the columns (what is missing, implausible) is timed too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from sagittal_core.results import write_results
from sagittal_core.seeds import counter_seed
from sagittal_risk.equations import evaluate_many, family
from sagittal_risk.patients import Patients

ROOT = Path(__file__).resolve().parents[1]
COUNT = 1_000_000
RANGES = {
    "age": (30, 79), "total_cholesterol": (130, 320), "hdl_cholesterol": (20, 100),
    "systolic": (90, 180), "bmi": (18.5, 39.9), "egfr": (15, 140),
}  # fmt: skip
FLAGS = ("sex", "diabetes", "smoker", "bp_treated", "statin")


def columns() -> dict[str, np.ndarray]:
    """Made patients over the whole range of the derivation."""
    rng = np.random.default_rng(counter_seed(0, "patients"))
    made = {name: rng.uniform(low, high, COUNT) for name, (low, high) in RANGES.items()}
    made |= {name: rng.integers(0, 2, COUNT).astype(float) for name in FLAGS}
    for column in made.values():
        column[rng.random(COUNT) < 0.01] = np.nan
    return made


def best(rounds: int, work) -> float:
    """Least wall time of several rounds, in seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Time and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "bench_prevent.json")
    args = parser.parse_args()
    every = family("prevent")
    made = columns()
    patients = Patients.from_columns(made)
    checked = best(args.rounds, lambda: Patients.from_columns(made))
    rows = [["check the columns", 1, round(checked, 3)]]
    for threads in (1, 2):
        for label, names in (("total CVD, 10 years", every[:1]), ("all ten equations", every)):
            seconds = best(
                args.rounds, lambda n=names, t=threads: evaluate_many(n, patients, threads=t)
            )
            rows.append([label, threads, round(seconds, 3)])
    for row in rows:
        print(*row)
    write_results(
        args.results,
        command="python benchmarks/bench_prevent.py",
        seeds=[0],
        n={"patients": COUNT, "rounds, the fastest counts": args.rounds},
        tables={"seconds": (["work", "threads", "seconds"], rows)},
    )


if __name__ == "__main__":
    main()
