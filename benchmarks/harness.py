"""What the benchmarks share: interleaved timing, the machine's own rates, memory, tables, plots.

Import it before torch: it sets the wait policy of idle OpenMP threads.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

# Threads that spin while they wait take the core away from the next peer. Read as torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch.utils.benchmark import Timer

from sagittal_core.ops import backend_info
from sagittal_core.results import Cell, Table, write_results

OUT = Path(__file__).parent / "out"
Work = Callable[[], object]


@dataclass(kw_only=True)
class Row:
    """One measurement: what ran, how long, how much memory, how exact.

    `ms` None says that the peer is not installed. `ratio` is the median over the rounds of (this
    peer / ours) in the same round; `giga` is GFlop/s or GB/s, as `unit` says; `extra_mb` is the
    highest extra memory of one call; rows of one `sweep` differ in `size` only.
    """

    case: str
    operation: str
    peer: str
    threads: int
    ms: float | None
    ratio: float | None
    giga: float | None = None
    unit: str = "GFlop/s"
    extra_mb: float | None = None
    error: float | None = None
    sweep: str | None = None
    size: int | None = None


def interleaved(works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every round of every work; each round runs all of them once, in turn."""
    threads = torch.get_num_threads()
    timers = {
        name: Timer("work()", globals={"work": work}, num_threads=threads)
        for name, work in works.items()
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(timer.timeit(1).mean * 1e3)
    return times


def paired_ratio(peer: list[float], ours: list[float]) -> float:
    """Median over the rounds of the peer's time divided by ours in the same round."""
    return statistics.median(a / b for a, b in zip(peer, ours, strict=True))


def extra_memory(work: Work) -> float | None:
    """Megabytes by which one call raises the process's peak memory; None where it can't be read.

    The kernel's own high-water mark, so allocations outside torch count too; pages that the
    allocator kept from earlier calls are given back first.
    """
    clear, libc = Path("/proc/self/clear_refs"), ctypes.util.find_library("c")
    if not clear.exists() or libc is None or not hasattr(ctypes.CDLL(libc), "malloc_trim"):
        return None
    work()  # whatever is built once
    ctypes.CDLL(libc).malloc_trim(0)
    clear.write_text("5")  # the mark falls to what is resident now
    before = _status("VmHWM")
    work()
    return (_status("VmHWM") - before) / 1e3


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise KeyError(key)


@lru_cache(maxsize=1)
def _probe() -> ctypes.CDLL | None:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return None
    OUT.mkdir(exist_ok=True)
    source, library = Path(__file__).with_name("fma_peak.cpp"), OUT / "fma_peak.so"
    command = [compiler, "-O3", "-shared", "-fPIC", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def fma_peak(dtype: torch.dtype = torch.float32) -> tuple[Work, float] | None:
    """A work that does nothing but multiply-adds on torch's number of threads, and its GFlop.

    Put it among the interleaved works, so that the peak is measured beside the peers. None without
    a compiler.
    """
    probe = _probe()
    if probe is None:
        return None
    run = probe.fma_peak_float if dtype == torch.float32 else probe.fma_peak_double
    run.restype, run.argtypes = ctypes.c_double, [ctypes.c_int64]
    # As long as a kernel's call: shorter ones would find a quieter moment of a shared machine.
    threads, rounds = torch.get_num_threads(), 5_000_000
    flop = threads * rounds * probe.fma_peak_round_flop_bits() / torch.finfo(dtype).bits
    pool = ThreadPoolExecutor(threads)

    def work() -> None:
        list(pool.map(run, [rounds] * threads))  # ctypes lets go of the interpreter lock

    return work, flop / 1e9


def machine_rates() -> dict[str, float]:
    """The machine's own speed: sgemm and multiply-add peak in GFlop/s, copy in GB/s."""
    a, big = torch.randn(1024, 1024), torch.randn(1 << 24)
    target = torch.empty_like(big)  # a fresh one would time page faults
    works: dict[str, Work] = {"sgemm": lambda: a @ a, "copy": lambda: target.copy_(big)}
    peak = fma_peak()
    if peak is not None:
        works["fma"] = peak[0]
    best = {name: min(times) for name, times in interleaved(works, 5).items()}
    rates = {"sgemm_gflops": 2 * 1.024**3 * 1e3 / best["sgemm"], "copy_gb_s": 134.2 / best["copy"]}
    if peak is not None:
        rates["fma_gflops"] = peak[1] * 1e3 / best["fma"]
    return rates


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="tiny cases, to see that it runs")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores}))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, help="also write the tables to this result file")
    return parser


def thread_counts(counts: Sequence[int]) -> Iterator[tuple[int, dict[str, float]]]:
    """Set torch to each count in turn; print and yield the machine's rates there."""
    before, info = torch.get_num_threads(), backend_info()
    for threads in counts:
        torch.set_num_threads(threads)
        rates = machine_rates()
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "not measured"
        print(
            f"\n{platform.processor() or platform.machine()}, {threads} threads, "
            f"torch {torch.__version__}, kernels {info.mode} {info.isa}, sgemm "
            f"{rates['sgemm_gflops']:.0f} GFlop/s, multiply-add peak "
            f"{rates.get('fma_gflops', math.nan):.0f} GFlop/s, copy {rates['copy_gb_s']:.1f} GB/s, "
            f"GPU {gpu}"
        )
        yield threads, rates
    torch.set_num_threads(before)


def print_rows(rows: list[Row]) -> None:
    """A table on screen; the ratio is to the row of peer "sagittal"."""
    print(
        f"{'case':28} {'operation':12} {'peer':22} {'ms':>13} {'ratio':>7} {'rate':>15} "
        f"{'extra MB':>9} {'error':>9}"
    )
    for row in rows:
        rate = "" if row.giga is None else f"{row.giga:7.1f} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        memory = "" if row.extra_mb is None else f"{row.extra_mb:.1f}"
        error = "" if row.error is None else f"{row.error:.1e}"
        print(
            f"{row.case:28} {row.operation:12} {row.peer:22} {_time(row):>13} {ratio:>7} "
            f"{rate:>15} {memory:>9} {error:>9}"
        )


def _time(row: Row) -> str:
    return "not installed" if row.ms is None else f"{row.ms:.2f}"


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope of log(value) over log(size): cost grows as size to this power."""
    x, y = [math.log(s) for s in sizes], [math.log(v) for v in values]
    return statistics.linear_regression(x, y).slope


def curves(rows: list[Row]) -> dict[str, dict[tuple[str, int], list[Row]]]:
    """Rows of each sweep, by (peer, threads), in order of size."""
    found: dict[str, dict[tuple[str, int], list[Row]]] = {}
    for row in sorted((r for r in rows if r.sweep is not None), key=lambda r: r.size or 0):
        assert row.sweep is not None
        found.setdefault(row.sweep, {}).setdefault((row.peer, row.threads), []).append(row)
    return found


def result_tables(rows: list[Row]) -> dict[str, Table]:
    """A table of the single cases for each number of threads, and one of the fitted exponents."""
    tables: dict[str, Table] = {}
    columns = ["case", "operation", "peer", "ms", "ratio", "rate", "extra MB", "error"]
    for threads in sorted({row.threads for row in rows}):
        lines = [_cells(row) for row in rows if row.sweep is None and row.threads == threads]
        tables[f"threads-{threads}"] = (columns, lines)
    growth = [
        [sweep, peer, threads, f"{exponent([r.size or 0 for r in line], [r.ms for r in line]):.2f}"]
        for sweep, lines in curves(rows).items()
        for (peer, threads), line in lines.items()
    ]
    if growth:
        tables["growth"] = (["sweep", "peer", "threads", "exponent of time"], growth)
    return tables


def _cells(row: Row) -> list[Cell]:
    return [
        row.case,
        row.operation,
        row.peer,
        _time(row),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.giga is None else f"{row.giga:.1f} {row.unit}",
        "" if row.extra_mb is None else f"{row.extra_mb:.1f}",
        "" if row.error is None else f"{row.error:.0e}",
    ]


def print_exponents(rows: list[Row]) -> None:
    """How time grows in each sweep, for each peer."""
    for sweep, lines in curves(rows).items():
        for (peer, threads), line in lines.items():
            if len(line) > 1:
                slope = exponent([r.size or 0 for r in line], [r.ms for r in line])
                print(f"{sweep:14} {peer:22} {threads} threads: time ~ size^{slope:.2f}")


def save(name: str, rows: list[Row], args: argparse.Namespace, **document: object) -> None:
    """Write out/<name>.json and, where there are sweeps, out/<name>.png.

    With ``--results`` also the file that README tables are rendered from.
    """
    OUT.mkdir(exist_ok=True)
    info = backend_info()
    head = {"torch": torch.__version__, "kernels": info.mode, "isa": info.isa, **document}
    text = json.dumps({**head, "rows": [asdict(row) for row in rows]}, indent=1)
    (OUT / f"{name}.json").write_text(text + "\n")
    print(f"written: {OUT / name}.json")
    if args.results is not None:
        command = f"python benchmarks/{name}.py --rounds {args.rounds}"
        n, tables = {"rounds at most": args.rounds}, result_tables(rows)
        write_results(args.results, command=command, seeds=[0], n=n, tables=tables)
        print(f"written: {args.results}")
    sweeps = curves(rows)
    if sweeps:
        with _figure(len(sweeps), OUT / f"{name}.png") as axes:
            for column, (sweep, lines) in enumerate(sweeps.items()):
                _draw(axes[0][column], axes[1][column], sweep, lines)


@contextmanager
def _figure(columns: int, path: Path) -> Iterator[list[list]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (5 * columns, 8)
    figure, axes = pyplot.subplots(2, columns, figsize=size, squeeze=False, layout="constrained")
    yield axes
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(f"written: {path}")


def _draw(top, bottom, sweep: str, lines: dict[tuple[str, int], list[Row]]) -> None:
    peers = sorted({peer for peer, _ in lines})
    counts = sorted({threads for _, threads in lines})
    for (peer, threads), line in lines.items():
        sizes = [row.size for row in line]
        look = {
            "label": f"{peer}, {threads} threads",
            "color": f"C{peers.index(peer)}",
            "linestyle": ("-", "--", ":", "-.")[counts.index(threads) % 4],
            "marker": "o",
        }
        top.loglog(sizes, [row.ms for row in line], **look)
        with_memory = [(row.size, row.extra_mb) for row in line if row.extra_mb]
        if with_memory:
            bottom.loglog(*zip(*with_memory, strict=True), **look)
    top.set(xlabel=sweep, ylabel="ms", title=f"time against {sweep}")
    bottom.set(xlabel=sweep, ylabel="MB", title=f"extra memory against {sweep}")
    top.legend(fontsize=7)
