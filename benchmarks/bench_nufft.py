"""Times the non-uniform transforms and the Toeplitz normal operator against their peers.

Runs alone: ``python benchmarks/bench_nufft.py [--quick] [--json out.json]``. Peers that are not
installed are left out and named. Times are the fastest of interleaved rounds.
"""

import argparse
import json
import math
import os
import platform
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch.utils.benchmark import Timer

from sagittal_core.ops import (
    backend_info,
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


def fastest(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds per call: peers interleaved, the minimum over the rounds."""
    best = dict.fromkeys(works, math.inf)
    for _ in range(rounds):
        for name, work in works.items():
            timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
            best[name] = min(best[name], timer.timeit(1).mean * 1e3)
    return best


def machine_rates() -> dict[str, float]:
    """The machine's own speed: matrix multiplication in GFlop/s and copy in GB/s."""
    a, big = torch.randn(1024, 1024), torch.randn(1 << 24)
    times = fastest({"sgemm": lambda: a @ a, "copy": lambda: big.clone()}, 5)
    return {"sgemm_gflops": 2 * 1.024**3 * 1e3 / times["sgemm"], "copy_gb_s": 134.2 / times["copy"]}


def cases(
    n: int, coils: int, spokes: int, tol: float
) -> dict[str, dict[str, Callable[[], object]]]:
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

    works: dict[str, dict[str, Callable[[], object]]] = {
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
    """Measure, print a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny case, to see that it runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    info = backend_info()
    rates = machine_rates()
    print(
        f"{platform.processor() or platform.machine()}, {args.threads} threads, torch "
        f"{torch.__version__}, kernels {info.mode} {info.isa}, sgemm "
        f"{rates['sgemm_gflops']:.0f} GFlop/s, copy {rates['copy_gb_s']:.1f} GB/s, GPU not measured"
    )
    sizes = [(32, 2, 8)] if args.quick else [(256, 8, 128), (320, 15, 200)]
    rows = []
    print(f"{'case':24} {'operation':10} {'peer':24} {'ms':>9} {'ratio to ours':>14}")
    for n, coils, spokes in sizes:
        for operation, works in cases(n, coils, spokes, args.tol).items():
            times = fastest(works, 2 if args.quick else args.rounds)
            for peer, ms in times.items():
                case, ratio = f"{n}^2 x {coils}, {spokes} spokes", ms / times["sagittal"]
                print(f"{case:24} {operation:10} {peer:24} {ms:9.2f} {ratio:14.2f}")
                rows.append({"case": case, "operation": operation, "peer": peer, "ms": ms})
    if args.json:
        document = {"threads": args.threads, "tol": args.tol, "kernels": info.mode, "isa": info.isa}
        args.json.write_text(json.dumps({**document, **rates, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
