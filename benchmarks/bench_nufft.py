"""Times the non-uniform transforms and the normal operator against their peers.

Runs alone: ``python benchmarks/bench_nufft.py [--quick]``. Peers that are not installed are named
and left out. Times are the fastest of interleaved rounds, with plans and kernels made before.
Errors are relative l2 errors against float64: direct sums at some points or pixels for the
transforms, gridding there and back at 1e-9 for the normal operator. Rates count the work of our
own algorithm (footprints and FFTs; for the normal operator the FFTs of the polyphase form).
"""

import harness  # before torch: it sets how idle threads wait

# isort: split
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sagittal_core.ops import (
    nufft_plan,
    nufft_type1,
    nufft_type2,
    reference,
    toeplitz_kernel,
    toeplitz_normal,
)

CHECKED = 64  # points or pixels that are compared with the direct sum
OURS = "sagittal"
Tensor = torch.Tensor
Ways = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class Case:
    """Image side n in d dimensions, coils C and points M; the sweep that it belongs to."""

    side: int
    coils: int
    points: int
    dims: int = 2
    radial: bool = True
    sweep: str | None = None

    def name(self) -> str:
        kind = "radial" if self.radial else "random"
        return f"{self.side}^{self.dims} x {self.coils}, {self.points} {kind}"

    def swept(self) -> int | None:
        return {None: None, "n": self.side, "C": self.coils, "M": self.points}[self.sweep]

    def shape(self) -> tuple[int, ...]:
        return (self.side,) * self.dims

    def trajectory(self) -> Tensor:
        """(M, d) float32: golden-angle spokes of 2 n samples, or points drawn evenly."""
        if not self.radial:
            return (torch.rand(self.points, self.dims) * 2 - 1) * math.pi
        readout = 2 * self.side
        angle = torch.arange(self.points // readout) * math.pi * (math.sqrt(5) - 1) / 2
        radius = torch.linspace(-math.pi, math.pi, readout + 1)[:-1]
        spokes = torch.stack([torch.cos(angle), torch.sin(angle)], -1)
        return (spokes[:, None] * radius[:, None]).reshape(-1, 2)


MIDDLE = Case(128, 4, 16384, radial=False)
CASES = [
    Case(256, 8, 65536),
    Case(256, 8, 65536, radial=False),
    Case(320, 15, 259200),
    Case(64, 4, 131072, dims=3, radial=False),
]
SWEEPS = [
    *(replace(MIDDLE, side=n, sweep="n") for n in (64, 128, 256, 512)),
    *(replace(MIDDLE, coils=c, sweep="C") for c in (1, 2, 4, 8, 16)),
    *(replace(MIDDLE, points=m, sweep="M") for m in (4096, 16384, 65536, 262144)),
]
QUICK = [
    Case(16, 2, 128),
    Case(8, 2, 100, dims=3, radial=False),
    *(Case(16, 2, m, radial=False, sweep="M") for m in (64, 128)),
]


def transforms(case: Case, tol: float) -> tuple[dict[str, Ways], dict[str, Tensor]]:
    """Ways to compute each type of transform, and direct sums at some points and pixels."""
    omega, shape = case.trajectory(), case.shape()
    x = torch.randn(case.coils, *shape, dtype=torch.complex64)
    y = torch.randn(case.coils, len(omega), dtype=torch.complex64)
    plan = nufft_plan(omega, shape, tol)
    ways: dict[str, Ways] = {
        "type 2": {OURS: lambda: nufft_type2(x, omega, tol, plan=plan)},
        "type 1": {OURS: lambda: nufft_type1(y, omega, shape, tol, plan=plan)},
    }
    _add_finufft(ways, omega, x, y, tol)
    if case.sweep is None:
        _add_torchkbnufft(ways, omega, x, y)
        _add_mrinufft(ways, omega, x, y, tol)
    wide = omega.double()
    pixels = torch.cartesian_prod(*(torch.arange(n) - n // 2 for n in shape))
    pixels = pixels[checked_pixels(len(pixels))]
    phase = torch.exp(1j * (pixels.double() @ wide.T))
    exact = {
        "type 2": reference.nudft_type2(x.to(torch.complex128), wide[:CHECKED]),
        "type 1": y.to(torch.complex128) @ phase.T,
    }
    return ways, exact


def checked_pixels(count: int) -> Tensor:
    """Pixels drawn evenly, the same ones at every call."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(1))[:CHECKED]


def _add_torchkbnufft(ways: dict[str, Ways], omega: Tensor, x: Tensor, y: Tensor) -> None:
    try:
        import torchkbnufft
    except ImportError:
        print("torchkbnufft is not installed: left out")
        return
    forward, adjoint = (
        kind(tuple(x.shape[1:])) for kind in (torchkbnufft.KbNufft, torchkbnufft.KbNufftAdjoint)
    )
    k = omega.T.contiguous()
    ways["type 2"]["torchkbnufft"] = lambda: forward(x[None], k)[0]
    ways["type 1"]["torchkbnufft"] = lambda: adjoint(y[None], k)[0]


def _add_finufft(ways: dict[str, Ways], omega: Tensor, x: Tensor, y: Tensor, tol: float) -> None:
    try:
        import finufft
    except ImportError:
        print("finufft is not installed: left out")
        return
    axes = [omega[:, j].contiguous().numpy() for j in range(omega.shape[1])]
    plans = {}
    for kind, sign in ((1, 1), (2, -1)):
        threads = torch.get_num_threads()
        options = {"dtype": "complex64", "nthreads": threads}
        plans[kind] = finufft.Plan(kind, tuple(x.shape[1:]), len(x), tol, sign, **options)
        plans[kind].setpts(*axes)
    ways["type 2"]["finufft"] = lambda: torch.from_numpy(plans[2].execute(x.numpy()))
    ways["type 1"]["finufft"] = lambda: torch.from_numpy(plans[1].execute(y.numpy()))


def _add_mrinufft(ways: dict[str, Ways], omega: Tensor, x: Tensor, y: Tensor, tol: float) -> None:
    try:
        import mrinufft
    except ImportError:
        print("mri-nufft is not installed: left out")
        return
    operator = mrinufft.get_operator("finufft")(
        omega.numpy(), tuple(x.shape[1:]), n_coils=len(x), squeeze_dims=True, eps=tol
    )
    scale = operator.norm_factor  # its transforms are orthonormal, ours are plain sums
    ways["type 2"]["mri-nufft"] = lambda: torch.from_numpy(operator.op(x.numpy()) * scale)
    ways["type 1"]["mri-nufft"] = lambda: torch.from_numpy(operator.adj_op(y.numpy()) * scale)


def normals(case: Case, tol: float) -> tuple[dict[str, Ways], dict[str, Tensor]]:
    """Ways to apply the normal operator, and gridding there and back in float64."""
    omega, shape = case.trajectory(), case.shape()
    maps = torch.randn(1, case.coils, *shape, dtype=torch.complex64)
    image = torch.randn(1, *shape, dtype=torch.complex64)
    kernel = toeplitz_kernel(omega, torch.ones(len(omega)), shape)
    plan = nufft_plan(omega, shape, tol)
    axes, bits = tuple(range(-case.dims, 0)), 2**case.dims
    half = torch.arange(case.side) * (-math.pi / case.side)
    phases = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * case.dims)
    grids = torch.meshgrid(*[half] * case.dims, indexing="ij")
    angles = sum(b.reshape(-1, *(1,) * case.dims) * g for b, g in zip(phases.T, grids, strict=True))
    modulations = torch.polar(torch.ones(bits, *shape), torch.as_tensor(angles))

    def there_and_back() -> Tensor:
        samples = nufft_type2(maps[0] * image, omega, tol, plan=plan)
        return (maps[0].conj() * nufft_type1(samples, omega, shape, tol, plan=plan)).sum(0)[None]

    def polyphase() -> Tensor:
        out = torch.zeros_like(image)
        for modulation, part in zip(modulations, kernel, strict=True):
            spectrum = torch.fft.fftn(maps * (image * modulation)[:, None], dim=axes) * part
            coils = torch.fft.ifftn(spectrum, dim=axes)
            out = out + modulation.conj() * (maps.conj() * coils).sum(1)
        return out

    def fft_alone() -> Tensor:
        for _ in range(bits):
            out = torch.fft.ifftn(torch.fft.fftn(maps, dim=axes), dim=axes)
        return out

    ways: Ways = {
        OURS: lambda: toeplitz_normal(image, maps, kernel),
        "sagittal, gridding": there_and_back,
        "torch polyphase": polyphase,
        "its FFTs alone": fft_alone,
    }
    if case not in QUICK:  # compiling takes longer than all the rest
        _add_compiled(ways, polyphase)
    _add_kb_normal(ways, omega, maps, image)
    wide = omega.double()
    samples = nufft_type2((maps[0] * image).to(torch.complex128), wide, 1e-9)
    exact = (maps[0].conj() * nufft_type1(samples, wide, shape, 1e-9)).sum(0)[None]
    return {"normal": ways}, {"normal": exact}


def _add_compiled(ways: Ways, polyphase: Callable[[], Tensor]) -> None:
    compiled = torch.compile(polyphase)
    try:
        compiled()
    except Exception as error:  # what fails when there is no usable compiler has no one type
        print(f"torch.compile does not work here: left out ({type(error).__name__})")
        return
    ways["torch.compile"] = compiled


def _add_kb_normal(ways: Ways, omega: Tensor, maps: Tensor, image: Tensor) -> None:
    try:
        import torchkbnufft
    except ImportError:
        print("torchkbnufft is not installed: left out")
        return
    size, k = tuple(image.shape[1:]), omega.T.contiguous()
    toeplitz, kernel = torchkbnufft.ToepNufft(), torchkbnufft.calc_toeplitz_kernel(k, size)
    forward, adjoint = torchkbnufft.KbNufft(size), torchkbnufft.KbNufftAdjoint(size)
    ways["torchkbnufft Toeplitz"] = lambda: toeplitz(image[None], kernel, smaps=maps)[0]
    ways["torchkbnufft there, back"] = lambda: adjoint(
        forward(image[None], k, smaps=maps), k, smaps=maps
    )[0]


def relative_error(operation: str, found: Tensor, exact: Tensor) -> float | None:
    """Relative l2 error over what was computed exactly; None where a result isn't the operation."""
    if operation == "type 2":
        found = found[:, :CHECKED]
    elif operation == "type 1":
        found = found.flatten(1)
        found = found[:, checked_pixels(found.shape[1])]
    if found.shape != exact.shape:
        return None
    return float((found - exact).norm() / exact.norm())


def gigaflop(case: Case, operation: str, tol: float) -> float:
    """Work of our algorithm."""
    d, pixels = case.dims, case.side**case.dims
    if operation == "normal":
        return 2 * 2**d * case.coils * 5 * pixels * math.log2(pixels) / 1e9
    plan = nufft_plan(case.trajectory(), case.shape(), tol)
    cells, width = math.prod(plan.grid_shape), plan.coefficients.shape[1]
    footprints = 4 * case.coils * len(plan.points[0]) * width**d
    return (footprints + 5 * case.coils * cells * math.log2(cells)) / 1e9


def measure(case: Case, tol: float, rounds: int) -> list[harness.Row]:
    """One row for each operation and peer."""
    ways, exact = transforms(case, tol)
    if case.sweep is None:
        more, more_exact = normals(case, tol)
        ways, exact = ways | more, exact | more_exact
    rows = []
    for operation, peers in ways.items():
        times = harness.interleaved(dict(peers), rounds)
        work = gigaflop(case, operation, tol)
        for peer, way in peers.items():
            counted = peer in (OURS, "its FFTs alone")
            rows.append(
                harness.Row(
                    case=case.name(),
                    operation=operation,
                    peer=peer,
                    threads=torch.get_num_threads(),
                    ms=min(times[peer]),
                    ratio=harness.paired_ratio(times[peer], times[OURS]),
                    giga=work * 1e3 / min(times[peer]) if counted else None,
                    extra_mb=harness.extra_memory(way),
                    error=relative_error(operation, way(), exact[operation]),
                    sweep=None if case.sweep is None else f"{operation} {case.sweep}",
                    size=case.swept(),
                )
            )
    return rows


def main() -> None:
    """Measure, print a table and exponents, write JSON and a plot."""
    parser = harness.arguments(__doc__)
    parser.add_argument("--tol", type=float, default=1e-4)
    args = parser.parse_args()
    torch.manual_seed(0)
    rows: list[harness.Row] = []
    machine = {}
    for threads, rates in harness.thread_counts(args.threads):
        machine[threads] = rates
        for case in QUICK if args.quick else [*CASES, *SWEEPS]:
            found = measure(case, args.tol, 2 if args.quick else args.rounds)
            harness.print_rows(found)
            rows += found
    harness.print_exponents(rows)
    harness.save("bench_nufft", rows, args, machine=machine, tol=args.tol)


if __name__ == "__main__":
    main()
