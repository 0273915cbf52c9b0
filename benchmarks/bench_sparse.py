"""Times top-k encoding, sparse decoding and a sparse autoencoder's step against their peers.

Runs alone: ``python benchmarks/bench_sparse.py [--quick]``. Times are the fastest of interleaved
rounds. Errors are against float64: of values, reconstructions or gradients, relative to the largest
entry, over the first rows.
"""

import harness  # before torch: it sets how idle threads wait

# isort: split
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn.functional import embedding_bag

from sagittal_core.ops import sparse_decode, topk_encode, topk_select

TILE = 1024  # rows of the tiled peer: the fastest of 256, 512 and 1024
CHECKED = 256  # rows that are compared with float64
Tensor = torch.Tensor
Way = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """Rows N, inputs D, features F and active ones k; the sweep that it belongs to."""

    rows: int
    width: int
    features: int
    k: int
    sweep: str | None = None

    def name(self) -> str:
        return f"{self.rows}x{self.width}->{self.features}, k={self.k}"

    def swept(self) -> int | None:
        return {None: None, "N": self.rows, "F": self.features, "k": self.k}[self.sweep]


FULL = Case(4096, 1024, 16384, 32)
SMALL = Case(1024, 256, 4096, 32)
SWEEPS = [
    *(replace(SMALL, rows=n, sweep="N") for n in (256, 512, 1024, 2048, 4096)),
    *(replace(SMALL, features=f, sweep="F") for f in (1024, 2048, 4096, 8192, 16384)),
    *(replace(SMALL, k=k, sweep="k") for k in (8, 16, 32, 64, 128)),
]
QUICK = Case(60, 16, 96, 4)
QUICK_SWEEPS = [replace(QUICK, rows=n, sweep="N") for n in (30, 60)]


@dataclass
class Model:
    """x (N, D), W_e (F, D), b_e (F,), W_d (F, D) and b_d (D,)."""

    x: Tensor
    W_e: Tensor
    b_e: Tensor
    W_d: Tensor
    b_d: Tensor

    @classmethod
    def random(cls, case: Case) -> "Model":
        """Unit decoder directions, an encoder that is their transpose, small biases."""
        weight = torch.nn.functional.normalize(torch.randn(case.features, case.width), dim=1)
        biases = 0.01 * torch.randn(case.features), 0.01 * torch.randn(case.width)
        x = torch.randn(case.rows, case.width)
        return cls(x, weight.clone(), biases[0], weight, biases[1])

    def first(self, rows: int) -> "Model":
        return replace(self, x=self.x[:rows])

    def double(self) -> "Model":
        return Model(*(t.double() for t in vars(self).values()))


# --- ways to encode: values (N, k) and indices (N, k) ---------------------------------------------


def encode_ours(m: Model, k: int) -> tuple[Tensor, Tensor]:
    codes = topk_encode(m.x, m.W_e, m.b_e, k, b_d=m.b_d)
    return codes.values, codes.indices


def encode_dense(m: Model, k: int) -> tuple[Tensor, Tensor]:
    return tuple(torch.relu(torch.addmm(m.b_e, m.x - m.b_d, m.W_e.T)).topk(k))


def encode_tiled(m: Model, k: int) -> tuple[Tensor, Tensor]:
    parts = [encode_dense(replace(m, x=x), k) for x in m.x.split(TILE)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


# --- ways to decode: (N, D) -----------------------------------------------------------------------


def decode_ours(m: Model, values: Tensor, indices: Tensor) -> Tensor:
    return sparse_decode(indices, values, m.W_d, m.b_d)


def decode_bag(m: Model, values: Tensor, indices: Tensor) -> Tensor:
    return embedding_bag(indices, m.W_d, per_sample_weights=values, mode="sum") + m.b_d


def decode_csr(m: Model, values: Tensor, indices: Tensor) -> Tensor:
    bounds = torch.arange(0, indices.numel() + 1, indices.shape[1])
    shape = (len(indices), len(m.W_d))
    flat = indices.flatten(), values.flatten()
    codes = torch.sparse_csr_tensor(bounds, *flat, shape, check_invariants=False)
    return codes @ m.W_d + m.b_d


def decode_dense(m: Model, values: Tensor, indices: Tensor) -> Tensor:
    codes = values.new_zeros(len(indices), len(m.W_d)).scatter_(1, indices, values)
    return torch.addmm(m.b_d, codes, m.W_d)


def decode_gathered(m: Model, values: Tensor, indices: Tensor) -> Tensor:
    return (values[..., None] * m.W_d[indices]).sum(1) + m.b_d


# --- a training step: gradients of W_e and W_d, one after the other -------------------------------


def step(m: Model, k: int, encode: Callable, decode: Callable) -> Tensor:
    """Gradients of |x - xhat|^2 with respect to all parameters, W_e's and W_d's returned."""
    leaves = [t.detach().requires_grad_() for t in (m.W_e, m.b_e, m.W_d, m.b_d)]
    model = Model(m.x, *leaves)
    values, indices = encode(model, k)
    loss = (decode(model, values, indices) - m.x).square().sum() / m.x.numel()
    found = torch.autograd.grad(loss, leaves)
    return torch.stack([found[0], found[2]])


STEPS: dict[str, Way] = {
    "sagittal": partial(step, encode=encode_ours, decode=decode_ours),
    "dense": partial(step, encode=encode_dense, decode=decode_dense),
    "embedding_bag": partial(step, encode=encode_dense, decode=decode_bag),
}


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def add_compiled(works: dict[str, harness.Work], name: str, work: harness.Work) -> None:
    """Add the compiled form where there is a compiler that works."""
    compiled = torch.compile(work)
    try:
        compiled()
    except Exception as error:  # what fails when there is no usable compiler has no one type
        print(f"torch.compile does not work here: left out ({type(error).__name__})")
        return
    works[name] = compiled


def measured(
    case: Case,
    operation: str,
    works: dict[str, harness.Work],
    rounds: int,
    errors: dict[str, float] | None = None,
    giga: float | None = None,
) -> list[harness.Row]:
    """One row for each work; ``giga``: GFlop of each."""
    times = harness.interleaved(works, rounds)
    return [
        harness.Row(
            case=case.name(),
            operation=operation,
            peer=peer,
            threads=torch.get_num_threads(),
            ms=min(times[peer]),
            ratio=harness.paired_ratio(times[peer], times["sagittal"]),
            giga=None if giga is None else giga * 1e3 / min(times[peer]),
            extra_mb=harness.extra_memory(work),
            error=None if errors is None else errors.get(peer),
            sweep=None if case.sweep is None else f"{operation} {case.sweep}",
            size=case.swept(),
        )
        for peer, work in works.items()
    ]


def measure_select(case: Case, rounds: int) -> list[harness.Row]:
    """The k largest of every row: random rows, and ascending ones, where every value is a hit."""
    rows: list[harness.Row] = []
    for kind in ("top-k", "top-k rising"):
        scores = torch.randn(case.rows, case.features)
        scores = scores if kind == "top-k" else scores.sort(1).values
        works: dict[str, harness.Work] = {
            "sagittal": partial(topk_select, scores, case.k),
            "torch.topk": partial(torch.topk, scores, case.k),
        }
        found = measured(case, kind, works, rounds)
        for row in found:
            row.giga, row.unit = scores.numel() * 4e-6 / row.ms, "GB/s"
        rows += found
    return rows


def measure_encode(case: Case, rounds: int) -> list[harness.Row]:
    """Values and indices, beside the matrix product alone."""
    m = Model.random(case)
    ways = {"sagittal": encode_ours, "addmm+relu+topk": encode_dense}
    if case.sweep is None:
        ways["tiled addmm+relu+topk"] = encode_tiled
    part = m.first(CHECKED)
    wanted = encode_dense(part.double(), case.k)[0]
    errors = {peer: relative_error(way(part, case.k)[0], wanted) for peer, way in ways.items()}
    works: dict[str, harness.Work] = {peer: partial(way, m, case.k) for peer, way in ways.items()}
    works["matrix product alone"] = lambda: m.x @ m.W_e.T
    if case.sweep is None:
        add_compiled(works, "torch.compile", works["addmm+relu+topk"])
    giga = 2 * case.rows * case.width * case.features / 1e9
    return measured(case, "encode", works, rounds, errors, giga)


def measure_decode(case: Case, rounds: int) -> list[harness.Row]:
    """Reconstructions from the codes."""
    m = Model.random(case)
    codes = encode_ours(m, case.k)
    ways = {"sagittal": decode_ours, "embedding_bag": decode_bag}
    if case.sweep is None:
        ways |= {"CSR": decode_csr, "dense": decode_dense}
    part = tuple(t[:CHECKED] for t in codes)
    wanted = decode_dense(m.double(), part[0].double(), part[1])
    errors = {peer: relative_error(way(m, *part), wanted) for peer, way in ways.items()}
    works: dict[str, harness.Work] = {peer: partial(way, m, *codes) for peer, way in ways.items()}
    if case.sweep is None:
        add_compiled(works, "torch.compile", partial(decode_gathered, m, *codes))
    giga = 2 * case.rows * case.width * case.k / 1e9
    return measured(case, "decode", works, rounds, errors, giga)


def measure_step(case: Case, rounds: int) -> list[harness.Row]:
    """Forward and backward of the autoencoder."""
    m = Model.random(case)
    part = m.first(CHECKED)
    wanted = STEPS["dense"](part.double(), case.k)
    errors = {peer: relative_error(way(part, case.k), wanted) for peer, way in STEPS.items()}
    works: dict[str, harness.Work] = {peer: partial(way, m, case.k) for peer, way in STEPS.items()}
    return measured(case, "step", works, rounds, errors)


def main() -> None:
    """Measure, print a table and exponents, write JSON and a plot."""
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    args = harness.arguments(__doc__).parse_args()
    full, sweeps = (QUICK, QUICK_SWEEPS) if args.quick else (FULL, SWEEPS)
    rounds = 2 if args.quick else args.rounds
    rows: list[harness.Row] = []
    machine = {}
    for threads, rates in harness.thread_counts(args.threads):
        machine[threads] = rates
        torch.manual_seed(0)
        found = measure_select(full, rounds)
        found += measure_encode(full, min(rounds, 5))
        found += measure_decode(full, rounds)
        found += measure_step(full, min(rounds, 3))
        for case in sweeps:
            found += measure_encode(case, rounds)
            found += measure_decode(case, rounds)
            found += measure_step(case, min(rounds, 3))
        harness.print_rows(found)
        rows += found
    harness.print_exponents(rows)
    harness.save("bench_sparse", rows, args, machine=machine)


if __name__ == "__main__":
    main()
