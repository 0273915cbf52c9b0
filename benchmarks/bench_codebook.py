"""Times the codebook lookup and sums against their peers.

Runs alone: ``python benchmarks/bench_codebook.py [--quick]``. Peers that are not installed are left
out and named. Times are the fastest of interleaved rounds. The error of a lookup is how far, in
float64, the score of the code it chose lies below the best one, relative to |z| |e| + |e|^2. On a
GPU the lookup is also timed there, without and with tensor cores.
"""

import harness  # before torch: it sets how idle threads wait

# isort: split
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sagittal_core.ops import codebook_lookup, codebook_sums

TILE = 1024  # rows of the tiled peer: its scores stay in the last-level cache
PEAK = "multiply-add peak"
CUDA_TYPES = (torch.float32, torch.bfloat16)
Lookups = dict[str, Callable[[], torch.Tensor]]


@dataclass(frozen=True)
class Case:
    """Rows N, dimension D and codes K; the sweep that it belongs to."""

    rows: int
    width: int
    size: int
    sweep: str | None = None
    heavy: bool = False

    def name(self) -> str:
        return f"{self.rows} x {self.width}, K={self.size}"

    def swept(self) -> int | None:
        return {None: None, "N": self.rows, "D": self.width, "K": self.size}[self.sweep]


CASES = [Case(65536, 64, 1024), Case(65536, 64, 8192, heavy=True)]
SWEEPS = [
    *(Case(n, 64, 1024, "N") for n in (1024, 4096, 16384, 65536)),
    *(Case(8192, 64, k, "K") for k in (64, 256, 1024, 4096, 16384)),
    *(Case(8192, d, 1024, "D") for d in (4, 16, 64, 256, 1024)),
]
QUICK = [Case(200, 8, 32), Case(100, 8, 32, "N"), Case(200, 8, 32, "N")]


def lookups(z: torch.Tensor, codebook: torch.Tensor, everything: bool) -> Lookups:
    """Ways to find the nearest code; the sweeps leave the slow ones out."""
    half = 0.5 * codebook.square().sum(1)

    def addmm() -> torch.Tensor:
        return torch.addmm(half, z, codebook.T, alpha=-1).argmin(1)

    def tiled() -> torch.Tensor:
        parts = (torch.addmm(half, part, codebook.T, alpha=-1).argmin(1) for part in z.split(TILE))
        return torch.cat(list(parts))

    works: Lookups = {
        "sagittal": lambda: codebook_lookup(z, codebook)[0],
        "addmm+argmin": addmm,
        "tiled addmm+argmin": tiled,
    }
    if everything:
        works["cdist+argmin"] = lambda: torch.cdist(z, codebook).argmin(1)
        _add_compiled(works, addmm)
    _add_faiss(works, z, codebook)
    return works


def _add_compiled(works: Lookups, addmm: Callable[[], torch.Tensor]) -> None:
    compiled = torch.compile(addmm)
    try:
        compiled()
    except Exception as error:  # what fails when there is no usable compiler has no one type
        print(f"torch.compile does not work here: left out ({type(error).__name__})")
        return
    works["torch.compile"] = compiled


def _add_faiss(works: Lookups, z: torch.Tensor, codebook: torch.Tensor) -> None:
    try:
        import faiss
    except ImportError:
        print("faiss is not installed: left out")
        return
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(codebook.shape[1])
    index.add(codebook.numpy())
    works["faiss"] = lambda: torch.from_numpy(index.search(z.numpy(), 1)[1][:, 0])


def shortfall(z: torch.Tensor, codebook: torch.Tensor, chosen: torch.Tensor) -> float:
    """Largest relative shortfall of the chosen code's score, over the first rows."""
    z, codebook, chosen = z[:1024].double(), codebook.double(), chosen[:1024]
    scores = z @ codebook.T - 0.5 * codebook.square().sum(1)
    norm = codebook.norm(dim=1).max()
    missed = scores.max(1).values - scores.gather(1, chosen[:, None])[:, 0]
    return float((missed / (z.norm(dim=1) * norm + norm**2)).max())


def measure_lookup(case: Case, rounds: int) -> list[harness.Row]:
    """One row for each way, and one for the machine's peak in the same rounds."""
    z, codebook = torch.randn(case.rows, case.width), torch.randn(case.size, case.width)
    found = lookups(z, codebook, everything=case.sweep is None)
    works: dict[str, harness.Work] = dict(found)
    giga = dict.fromkeys(works, 2 * case.rows * case.width * case.size / 1000000000.0)
    peak = harness.fma_peak()
    if peak is not None and case.sweep is None:
        works[PEAK], giga[PEAK] = peak
    times = harness.interleaved(works, rounds)
    return [
        harness.Row(
            case=case.name(),
            operation="lookup",
            peer=peer,
            threads=torch.get_num_threads(),
            ms=min(times[peer]),
            ratio=harness.paired_ratio(times[peer], times["sagittal"]) if peer != PEAK else None,
            giga=giga[peer] * 1e3 / min(times[peer]),
            extra_mb=harness.extra_memory(works[peer]) if peer != PEAK else None,
            error=shortfall(z, codebook, found[peer]()) if peer != PEAK else None,
            sweep=None if case.sweep is None else f"lookup {case.sweep}",
            size=case.swept(),
        )
        for peer in works
    ]


def measure_several(case: Case, k: int, rounds: int) -> list[harness.Row]:
    """The k best codes."""
    z, codebook = torch.randn(case.rows, case.width), torch.randn(case.size, case.width)
    half = 0.5 * codebook.square().sum(1)

    def tiled() -> torch.Tensor:
        parts = (torch.addmm(half, part, codebook.T, alpha=-1) for part in z.split(TILE))
        return torch.cat([part.topk(k, 1, largest=False).indices for part in parts])

    works: dict[str, harness.Work] = {
        "sagittal": lambda: codebook_lookup(z, codebook, k=k),
        "tiled addmm+topk": tiled,
    }
    return _plain_rows(case, f"lookup k={k}", works, rounds)


def measure_cuda(case: Case, dtype: torch.dtype, rounds: int) -> list[harness.Row]:
    """The lookup on a GPU without and with tensor cores; nothing where there is none."""
    name = f"CUDA {str(dtype).removeprefix('torch.')}"
    if not torch.cuda.is_available():
        print(f"{case.name()}, {name}: not measured (no GPU)")
        return []
    z = torch.randn(case.rows, case.width, device="cuda").to(dtype)
    codebook = torch.randn(case.size, case.width, device="cuda").to(dtype)
    half = (0.5 * codebook.float().square().sum(1)).to(dtype)

    def lookup(tensor_cores: str) -> torch.Tensor:
        os.environ["SAGITTAL_TENSOR_CORES"] = tensor_cores
        return codebook_lookup(z, codebook)[0]

    def addmm(precision: str) -> torch.Tensor:
        torch.set_float32_matmul_precision(precision)
        return torch.addmm(half, z, codebook.T, alpha=-1).argmin(1)

    found: Lookups = {
        "sagittal": lambda: lookup("0"),
        "sagittal, tensor cores": lambda: lookup("1"),
        "addmm+argmin": lambda: addmm("highest"),
    }
    if dtype == torch.float32:
        found["addmm+argmin, TF32"] = lambda: addmm("high")
    before = os.environ.get("SAGITTAL_TENSOR_CORES", "0"), torch.get_float32_matmul_precision()
    assert torch.equal(lookup("0"), lookup("1"))
    rows = _plain_rows(case, name, {peer: _waited(work) for peer, work in found.items()}, rounds)
    for row in rows:
        row.extra_mb, row.giga = None, 2e-6 * case.rows * case.width * case.size / (row.ms or 1)
        row.error = shortfall(z.cpu(), codebook.cpu(), found[row.peer]().cpu())
    os.environ["SAGITTAL_TENSOR_CORES"] = before[0]
    torch.set_float32_matmul_precision(before[1])
    return rows


def _waited(work: Callable[[], torch.Tensor]) -> harness.Work:
    def waited() -> None:
        work()
        torch.cuda.synchronize()

    return waited


def measure_sums(case: Case, rounds: int) -> list[harness.Row]:
    """Counts and sums of the rows of each code."""
    z = torch.randn(case.rows, case.width)
    indices = torch.randint(0, case.size, (case.rows,))

    def one_hot() -> torch.Tensor:
        matrix = torch.nn.functional.one_hot(indices, case.size).float()
        return torch.cat([matrix.T @ z, matrix.sum(0)[:, None]], 1)

    def index_add() -> torch.Tensor:
        sums = torch.zeros(case.size, case.width).index_add_(0, indices, z)
        return torch.cat([sums, torch.bincount(indices, minlength=case.size)[:, None]], 1)

    works: dict[str, harness.Work] = {
        "sagittal": lambda: codebook_sums(z, indices, case.size),
        "one-hot": one_hot,
        "index_add": index_add,
    }
    rows = _plain_rows(case, "sums", works, rounds)
    for row in rows:
        row.giga, row.unit = 4 * case.rows * case.width / 1e6 / row.ms, "GB/s"
    return rows


def _plain_rows(
    case: Case, operation: str, works: dict[str, harness.Work], rounds: int
) -> list[harness.Row]:
    times = harness.interleaved(works, rounds)
    return [
        harness.Row(
            case=case.name(),
            operation=operation,
            peer=peer,
            threads=torch.get_num_threads(),
            ms=min(times[peer]),
            ratio=harness.paired_ratio(times[peer], times["sagittal"]),
            extra_mb=harness.extra_memory(work),
        )
        for peer, work in works.items()
    ]


def main() -> None:
    """Measure, print a table and exponents, write JSON and a plot."""
    args = harness.arguments(__doc__).parse_args()
    cases = QUICK if args.quick else [*CASES, *SWEEPS]
    rounds = 2 if args.quick else args.rounds
    rows: list[harness.Row] = []
    machine = {}
    for threads, rates in harness.thread_counts(args.threads):
        machine[threads] = rates
        torch.manual_seed(0)
        found: list[harness.Row] = []
        for case in cases:
            found += measure_lookup(case, min(rounds, 3) if case.heavy else rounds)
        found += measure_several(cases[0], 8, rounds)
        found += measure_sums(cases[0], rounds)
        harness.print_rows(found)
        for case in (c for c in cases if c.sweep is None):
            print_share_of_peak(case, found)
        rows += found
    on_gpu = [row for dtype in CUDA_TYPES for row in measure_cuda(cases[0], dtype, rounds)]
    if on_gpu:
        harness.print_rows(on_gpu)
    rows += on_gpu
    harness.print_exponents(rows)
    harness.save("bench_codebook", rows, args, machine=machine)


def print_share_of_peak(case: Case, rows: list[harness.Row]) -> None:
    """What part of the best multiply-add rate seen in this run the lookup reaches."""
    peaks = [row.giga or 0 for row in rows if row.peer == PEAK]
    for row in rows:
        found = (row.case, row.operation, row.peer, row.sweep)
        if peaks and found == (case.name(), "lookup", "sagittal", None):
            share = 100 * (row.giga or 0) / max(peaks)
            print(f"{case.name()}: {share:.0f} % of the multiply-add peak")


if __name__ == "__main__":
    main()
