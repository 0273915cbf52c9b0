"""Times the non-uniform transforms and the Toeplitz normal operator against their peers.

Runs alone: ``python benchmarks/bench_nufft.py [--quick]``. Peers that are not installed are left
out and named. Times are the fastest of interleaved rounds.
"""

import harness  # before torch: it sets how idle threads wait

# isort: split
import math

import torch

from sagittal_core.ops import (
    nufft_plan,
    nufft_type1,
    nufft_type2,
    toeplitz_kernel,
    toeplitz_normal,
)


def radial(spokes: int, readout: int) -> torch.Tensor:
    """Golden-angle spokes: (spokes * readout, 2) float32, radians per pixel."""
    angle = torch.arange(spokes) * math.pi * (math.sqrt(5) - 1) / 2
    radius = torch.linspace(-math.pi, math.pi, readout + 1)[:-1]
    points = torch.stack([torch.cos(angle), torch.sin(angle)], -1)[:, None] * radius[:, None]
    return points.reshape(-1, 2)


def cases(n: int, coils: int, spokes: int, tol: float) -> dict[str, dict[str, harness.Work]]:
    """Works of each operation, by peer."""
    shape, omega = (n, n), radial(spokes, 2 * n)
    x = torch.randn(coils, n, n, dtype=torch.complex64)
    y = torch.randn(coils, len(omega), dtype=torch.complex64)
    plan = nufft_plan(omega, shape, tol)
    maps = torch.randn(1, coils, n, n, dtype=torch.complex64)
    image = torch.randn(1, n, n, dtype=torch.complex64)
    kernel = toeplitz_kernel(omega, torch.ones(len(omega)), shape)

    def there_and_back() -> torch.Tensor:
        samples = nufft_type2(maps[0] * image, omega, tol, plan=plan)
        return (maps[0].conj() * nufft_type1(samples, omega, shape, tol, plan=plan)).sum(0)

    works: dict[str, dict[str, harness.Work]] = {
        "type 2": {"sagittal": lambda: nufft_type2(x, omega, tol, plan=plan)},
        "type 1": {"sagittal": lambda: nufft_type1(y, omega, shape, tol, plan=plan)},
        "normal": {
            "sagittal": lambda: toeplitz_normal(image, maps, kernel),
            "sagittal there and back": there_and_back,
        },
    }
    _add_torchkbnufft(works, omega, x, y, maps, image)
    _add_finufft(works, omega, x, y, tol)
    return works


def _add_torchkbnufft(works, omega, x, y, maps, image) -> None:
    try:
        import torchkbnufft
    except ImportError:
        print("torchkbnufft is not installed: left out")
        return
    size = tuple(x.shape[-2:])
    forward = torchkbnufft.KbNufft(size)
    adjoint = torchkbnufft.KbNufftAdjoint(size)
    k = omega.T.contiguous()
    works["type 2"]["torchkbnufft"] = lambda: forward(x[None], k)
    works["type 1"]["torchkbnufft"] = lambda: adjoint(y[None], k)
    toeplitz = torchkbnufft.ToepNufft()
    kernel = torchkbnufft.calc_toeplitz_kernel(k, size)
    works["normal"]["torchkbnufft"] = lambda: toeplitz(image[None], kernel, smaps=maps)


def _add_finufft(works, omega, x, y, tol) -> None:
    try:
        import finufft
    except ImportError:
        print("finufft is not installed: left out")
        return
    a, b = (omega[:, j].contiguous().numpy() for j in (0, 1))
    options = {"dtype": "complex64", "nthreads": torch.get_num_threads()}
    two = finufft.Plan(2, tuple(x.shape[-2:]), len(x), tol, -1, **options)
    one = finufft.Plan(1, tuple(x.shape[-2:]), len(x), tol, 1, **options)
    two.setpts(a, b)
    one.setpts(a, b)
    works["type 2"]["finufft"] = lambda: two.execute(x.numpy())
    works["type 1"]["finufft"] = lambda: one.execute(y.numpy())


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = harness.arguments(__doc__)
    parser.add_argument("--tol", type=float, default=1e-4)
    args = parser.parse_args()
    sizes = [(32, 2, 8)] if args.quick else [(256, 8, 128), (320, 15, 200)]
    rows: list[harness.Row] = []
    machine = {}
    for threads, machine[threads] in harness.thread_counts(args.threads):
        found = []
        for n, coils, spokes in sizes:
            for operation, works in cases(n, coils, spokes, args.tol).items():
                times = harness.interleaved(works, 2 if args.quick else args.rounds)
                found += [
                    harness.Row(
                        case=f"{n}^2 x {coils}, {spokes} spokes",
                        operation=operation,
                        peer=peer,
                        threads=threads,
                        ms=min(peer_times),
                        ratio=harness.paired_ratio(peer_times, times["sagittal"]),
                        extra_mb=harness.extra_memory(works[peer]),
                    )
                    for peer, peer_times in times.items()
                ]
        harness.print_rows(found)
        rows += found
    harness.save("bench_nufft", rows, args, machine=machine, tol=args.tol)


if __name__ == "__main__":
    main()
