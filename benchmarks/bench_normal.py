"""Times the normal operator against gridding there and back as the number of points falls.

Where there are few points, gridding could be the faster way to apply A^H A. Toeplitz has two ways
of its own: one operator for lengths without a prime factor above 127, passes between the transforms
of torch for others. The kernel's row is what Toeplitz pays once per trajectory.
"""

import harness  # before torch: it sets how idle threads wait

# isort: split
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sagittal_core.ops import (
    nufft_plan,
    nufft_type1,
    nufft_type2,
    toeplitz_kernel,
    toeplitz_normal,
)

OURS = "sagittal"
GRIDDING = "sagittal, gridding"
KERNEL = "sagittal, its kernel"
DENSITIES = (0.001, 0.02, 0.1, 0.4, 1.0)


@dataclass(frozen=True)
class Case:
    """Image shape, coils, and points as a share of the pixels."""

    shape: tuple[int, ...]
    coils: int
    density: float

    def name(self) -> str:
        return f"{'x'.join(map(str, self.shape))} x {self.coils}, {self.density:g} points a pixel"

    def points(self) -> int:
        return max(1, round(self.density * math.prod(self.shape)))


SIZES = [  # 254 = 2 x 127, the largest prime that is summed directly; 262 = 2 x 131, one above it
    *(((n, n), 8) for n in (256, 254, 262)),
    ((320, 320), 15),
    ((64, 64, 64), 4),
]
CASES = [Case(shape, coils, density) for shape, coils in SIZES for density in DENSITIES]
QUICK = [Case((16, 16), 2, density) for density in (0.1, 1.0)]


def measure(case: Case, tol: float, rounds: int) -> list[harness.Row]:
    """Rows of both ways to apply the operator, and of its kernel."""
    points, d = case.points(), len(case.shape)
    omega = (torch.rand(points, d) * 2 - 1) * math.pi
    weights = torch.ones(points)
    maps = torch.randn(1, case.coils, *case.shape, dtype=torch.complex64)
    image = torch.randn(1, *case.shape, dtype=torch.complex64)
    kernel = toeplitz_kernel(omega, weights, case.shape)
    plan = nufft_plan(omega, case.shape, tol)

    def there_and_back() -> torch.Tensor:
        samples = nufft_type2(maps[0] * image, omega, tol, plan=plan)
        coils = nufft_type1(samples, omega, case.shape, tol, plan=plan)
        return (maps[0].conj() * coils).sum(0)[None]

    ways: dict[str, Callable[[], torch.Tensor]] = {
        OURS: lambda: toeplitz_normal(image, maps, kernel),
        GRIDDING: there_and_back,
    }
    times = harness.interleaved(dict(ways), rounds)
    once = harness.interleaved({KERNEL: lambda: toeplitz_kernel(omega, weights, case.shape)}, 2)
    wanted, threads = there_and_back(), torch.get_num_threads()
    rows = [
        harness.Row(
            case=case.name(),
            operation="normal",
            peer=peer,
            threads=threads,
            ms=min(times[peer]),
            ratio=harness.paired_ratio(times[peer], times[OURS]),
            extra_mb=harness.extra_memory(way),
            error=float((way() - wanted).norm() / wanted.norm()) if peer == OURS else None,
        )
        for peer, way in ways.items()
    ]
    return [
        *rows,
        harness.Row(
            case=case.name(),
            operation="kernel",
            peer=KERNEL,
            threads=threads,
            ms=min(once[KERNEL]),
            ratio=None,
        ),
    ]


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = harness.arguments(__doc__)
    parser.add_argument("--tol", type=float, default=1e-4, help="of gridding")
    args = parser.parse_args()
    torch.manual_seed(0)
    rows: list[harness.Row] = []
    machine = {}
    for threads, rates in harness.thread_counts(args.threads):
        machine[threads] = rates
        for case in QUICK if args.quick else CASES:
            found = measure(case, args.tol, 2 if args.quick else args.rounds)
            harness.print_rows(found)
            rows += found
    harness.save("bench_normal", rows, args, machine=machine, tol=args.tol)


if __name__ == "__main__":
    main()
