"""Sets the kernels' measured ratios beside their goals: results/kernel_goals.json.

Reads the tables that ``make bench`` wrote, so that no figure is typed by hand. A ratio is the
peer's time over ours, the median of ratios paired within a round, unless the row says otherwise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from sagittal_core.results import write_results

ROOT = Path(__file__).resolve().parents[1]
THREADS = (1, 2)


class Timings:
    """The rows of one benchmark at one number of threads."""

    def __init__(self, name: str, threads: int) -> None:
        file = ROOT / "results" / f"bench_{name}.json"
        table = json.loads(file.read_text())["tables"][f"threads-{threads}"]
        self.rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]

    def get(self, case: str, operation: str, peer: str, column: str) -> float:
        """Return one cell as a number; its unit is cut off."""
        for row in self.rows:
            if (row["case"], row["operation"], row["peer"]) == (case, operation, peer):
                return float(row[column].split()[0])
        raise SystemExit(f"no row {case} / {operation} / {peer} in the benchmark's table")


def slower(case: str, operation: str, peer: str) -> Callable[[Timings], float]:
    """How many times slower the peer is."""
    return lambda table: table.get(case, operation, peer, "ratio")


def of_its_time(case: str, operation: str, peer: str) -> Callable[[Timings], float]:
    """Our time as a share of the peer's."""
    return lambda table: 1 / table.get(case, operation, peer, "ratio")


def of_peak(case: str) -> Callable[[Timings], float]:
    """Our multiply-adds as a share of the peak measured in the same round-robin."""
    return lambda table: (
        table.get(case, "lookup", "sagittal", "rate")
        / table.get(case, "lookup", "multiply-add peak", "rate")
    )


SMALL, LARGE = "256^2 x 8, 65536 radial", "320^2 x 15, 259200 radial"
K1, K8, SAE = "65536 x 64, K=1024", "65536 x 64, K=8192", "4096x1024->16384, k=32"
THERE, TOEPLITZ = "torchkbnufft there, back", "torchkbnufft Toeplitz"
# (work, benchmark, figure, "at least" or "at most", goal)
GOALS = [
    ("type 2, time of finufft's", "nufft", of_its_time(SMALL, "type 2", "finufft"), "<=", 1.0),
    ("type 1, time of finufft's", "nufft", of_its_time(SMALL, "type 1", "finufft"), "<=", 1.0),
    ("type 2, torchkbnufft", "nufft", slower(SMALL, "type 2", "torchkbnufft"), ">=", 15.0),
    ("type 1, torchkbnufft", "nufft", slower(SMALL, "type 1", "torchkbnufft"), ">=", 15.0),
    (
        "normal 256^2, torchkbnufft both ways",
        "nufft",
        slower(SMALL, "normal", THERE),
        ">=",
        40,
    ),
    ("normal 256^2, torchkbnufft Toeplitz", "nufft", slower(SMALL, "normal", TOEPLITZ), ">=", 1.5),
    ("normal 320^2, torchkbnufft Toeplitz", "nufft", slower(LARGE, "normal", TOEPLITZ), ">=", 5.0),
    (
        "normal 320^2, time of the polyphase form's FFTs",
        "nufft",
        of_its_time(LARGE, "normal", "its FFTs alone"),
        "<=",
        1.1,
    ),
    ("lookup K = 1024, share of the peak", "codebook", of_peak(K1), ">=", 0.9),
    ("lookup K = 8192, share of the peak", "codebook", of_peak(K8), ">=", 0.9),
    ("top-k alone, torch.topk", "sparse", slower(SAE, "top-k", "torch.topk"), ">=", 3.0),
    (
        "encode, time of the matrix product",
        "sparse",
        of_its_time(SAE, "encode", "matrix product alone"),
        "<=",
        1.05,
    ),
    (
        "decode, time of embedding_bag's",
        "sparse",
        of_its_time(SAE, "decode", "embedding_bag"),
        "<=",
        1.0,
    ),
    ("training step, dense autograd", "sparse", slower(SAE, "step", "dense"), ">=", 5.0),
    ("training step, embedding_bag", "sparse", slower(SAE, "step", "embedding_bag"), ">=", 2.4),
]


def source(name: str) -> tuple[str, int]:
    """Return the commit that one benchmark timed, and in how many rounds at most."""
    document = json.loads((ROOT / "results" / f"bench_{name}.json").read_text())
    return str(document["commit"]), int(document["n"]["rounds at most"])


def main() -> None:
    """Write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", default=str(ROOT / "results" / "kernel_goals.json"))
    options = parser.parse_args()
    columns = ["work, against", "goal", *(f"{n} threads" for n in THREADS), "reached"]
    rows = []
    for work, name, figure, sign, goal in GOALS:
        found = [figure(Timings(name, threads)) for threads in THREADS]
        met = [value >= goal if sign == ">=" else value <= goal for value in found]
        verdict = "yes" if all(met) else "no" if not any(met) else "in part"
        rows.append([work, f"{sign} {goal:g}", *(f"{value:.2f}" for value in found), verdict])
    for row in [columns, *rows]:
        print("{:<50} {:>8} {:>10} {:>10}  {}".format(*row))
    commits, rounds = zip(*{source(name) for _, name, *_ in GOALS}, strict=True)
    write_results(
        options.results,
        command=f"make bench (timed at {', '.join(sorted(set(commits)))})",
        seeds=[0],
        n={"rounds at most": max(rounds)},
        tables={"goals": (columns, rows)},
    )


if __name__ == "__main__":
    main()
