"""Runs every compiled CPU operator on random shapes and values, under AddressSanitizer and UBSan.

``make fuzz`` compiles csrc/ with both sanitizers, preloads their libraries and runs this file:
``python tests/fuzz/fuzz_ops.py [--cases N] [--seed S] [operator ...]``. Each result is compared
with the plain-torch reference; case i of an operator depends on the seed, the operator and i only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

os.environ["SAGITTAL_OPS"] = "reference"  # what is tested is loaded below, by hand

import torch
from torch import Tensor
from torch.utils import cpp_extension

from sagittal_core.ops import _build, nufft_plan, reference, reference_codebook, reference_sparse

ROOT = Path(__file__).resolve().parents[2]
COMPILER = os.environ.get("CXX", "c++")
OPS = torch.ops.sagittal
SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def build() -> str:
    """Compile csrc/ with the sanitizers; path of the library."""
    config = _build._build_config(ROOT / "csrc")
    library = ROOT / "build" / "fuzz" / "sagittal_fuzz.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    include = [*cpp_extension.include_paths(), sysconfig.get_path("include")]
    flags = [*config.CXX_FLAGS, *SANITIZE, *(f"-isystem{path}" for path in include), "-fPIC"]

    def compiled(source: str) -> str:
        target = library.with_name(source.replace("/", "_") + ".o")
        command = [COMPILER, *flags, "-c", str(ROOT / source), "-o", str(target)]
        subprocess.run(command, check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, config.CPU_SOURCES))
    torch_libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    link = [*config.LINK_FLAGS, *SANITIZE, *torch_libraries, "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([COMPILER, "-shared", *objects, *link, "-o", str(library)], check=True)
    return str(library)


@dataclass
class Draw:
    """Random arguments of one case."""

    random: Random
    dtype: torch.dtype = field(init=False)

    def __post_init__(self) -> None:
        self.dtype = self.random.choice([torch.float32, torch.float64])
        torch.manual_seed(self.random.getrandbits(60))

    def size(self, low: int, high: int) -> int:
        """Small sizes more often, and powers of two and their neighbours."""
        if self.random.random() < 0.3:
            near = 2 ** self.random.randint(0, 12) + self.random.randint(-1, 1)
            return min(max(near, low), high)
        return low + int((high - low + 1) * self.random.random() ** 2)

    def values(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Small integers, whose sums are exact and tie, or zeros; sometimes not contiguous."""
        scale = self.random.choice([0.0, 0.6, 1.5, 1.5])
        found = torch.randn(shape).mul(scale).round().to(dtype or self.dtype)
        return self.view(found)

    def smooth(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Normal values over several decades."""
        scale = 10 ** self.random.uniform(-3, 3)
        return self.view(torch.randn(shape, dtype=dtype or self.dtype) * scale)

    def view(self, tensor: Tensor) -> Tensor:
        kind = self.random.random()
        if tensor.dim() == 2 and kind < 0.15:
            return tensor.T.contiguous().T
        if tensor.dim() > 0 and kind < 0.25:
            return torch.stack([tensor, tensor], -1)[..., 0]
        return tensor

    def any_float(self) -> torch.dtype:
        return self.random.choice([torch.float32, torch.float64, torch.float16, torch.bfloat16])


# --- codebook -------------------------------------------------------------------------------------


def codebook_lookup(d: Draw) -> tuple:
    n, width, size = d.size(0, 220), d.size(1, 70), d.size(1, 300)
    z = d.values(n, width, dtype=d.any_float())
    codebook = d.values(size, width, dtype=d.any_float())
    dtype = reference_codebook.scores_dtype(z, codebook)
    kind = d.random.randrange(3)
    bias = (None, d.values(size, dtype=dtype), d.values(n, size, dtype=dtype))[kind]
    if bias is not None and d.random.random() < 0.2:
        bias = torch.where(torch.rand(bias.shape) < 0.3, -torch.inf, bias)
    return z, codebook, bias, d.random.choice([1, 1, d.random.randint(1, size)])


def codebook_sums(d: Draw) -> tuple:
    rows, size = d.size(0, 500), d.size(1, 100)
    z = d.values(rows, d.size(1, 40), dtype=d.any_float())
    return z, d.view(torch.randint(d.size(1, size), (rows,))), size


# --- sparse ---------------------------------------------------------------------------------------


def encoder(d: Draw) -> tuple:
    n, width, features = d.size(0, 220), d.size(1, 70), d.size(1, 700)
    shift = d.values(width) if d.random.random() < 0.5 else None
    return d.values(n, width), d.values(features, width), d.values(features), shift


def topk_encode(d: Draw) -> tuple:
    found = encoder(d)
    return (*found, d.size(1, len(found[1])))


def threshold_encode(d: Draw) -> tuple:
    found = encoder(d)
    limits = d.values(d.random.choice([1, len(found[1])]))
    return (*found, limits + d.random.choice([0.0, 0.5, torch.inf, -torch.inf]))


def topk_select(d: Draw) -> tuple:
    scores = d.values(d.size(0, 6), d.size(1, 3000))
    kind = d.random.randrange(4)
    if kind == 0:
        scores = scores.sort(1).values
    elif kind == 1:
        scores = d.smooth(*scores.shape)
    elif kind == 2:
        scores = torch.where(scores > 0, torch.inf, -scores)
    most = scores.shape[1] // d.random.choice([1, 64])  # few of many: whole groups are left out
    return scores, d.size(1, max(1, most))


def codes(d: Draw, features: int) -> tuple[Tensor, Tensor, Tensor | None]:
    rows, used = d.size(0, 220), d.size(1, features)
    if d.random.random() < 0.5:
        shape: tuple[int, ...] = (rows, d.size(1, 12))
        offsets = None
    else:
        offsets = reference_sparse.row_offsets(torch.randint(0, d.size(1, 20), (rows,)))
        shape = (int(offsets[-1]),)
    return d.view(torch.randint(used, shape)), d.values(*shape), offsets


def prefixes(d: Draw, features: int) -> list[int]:
    return sorted(
        {features, *(d.random.randint(1, features) for _ in range(d.random.randrange(4)))}
    )


def sparse_decode(d: Draw) -> tuple:
    features, width = d.size(1, 700), d.size(1, 200)
    weight, bias = d.values(features, width), d.values(width)
    return (*codes(d, features), weight, bias, prefixes(d, features))


def sparse_decode_backward(d: Draw) -> tuple:
    indices, values, offsets, weight, _, ends = sparse_decode(d)
    rows = len(indices) if offsets is None else len(offsets) - 1
    grad = d.values(len(ends), rows, weight.shape[1])
    return grad, indices, values, offsets, weight, ends


def sparse_encode_backward(d: Draw) -> tuple:
    indices, values, offsets, weight, bias, _ = sparse_decode(d)
    rows = len(indices) if offsets is None else len(offsets) - 1
    x, shift = d.values(rows, weight.shape[1]), bias if d.random.random() < 0.5 else None
    return d.values(*values.shape), indices, values, offsets, x, shift, len(weight)


# --- nufft ----------------------------------------------------------------------------------------


def complex_of(d: Draw) -> torch.dtype:
    return torch.complex64 if d.dtype == torch.float32 else torch.complex128


def plan(d: Draw) -> Any:
    dims = d.random.choice([2, 2, 3])
    shape = tuple(d.size(1, 40 if dims == 2 else 10) for _ in range(dims))
    points = d.random.choice([0, 1, d.size(1, 300)])
    omega = (torch.rand(d.random.randint(1, 2), points, dims, dtype=d.dtype) * 2 - 1) * torch.pi
    if d.random.random() < 0.2:
        omega = omega.mul(2).round().div(2).clamp(-torch.pi, torch.pi)  # repeated points, ends
    # Of a few tolerances: the design of a kernel, which is kept, takes longer than all the rest.
    return nufft_plan(omega, shape, 10 ** (-0.5 * d.random.randint(2, 12 if dims == 2 else 6)))


def gridding(p: Any) -> tuple:
    return p.points, p.order, p.offsets, p.coefficients


def spread(d: Draw) -> tuple:
    p = plan(d)
    samples = d.smooth(len(p.points), d.size(1, 10), p.points.shape[1], dtype=complex_of(d))
    return samples, *gridding(p), list(p.grid_shape), list(p.tiles)


def interp(d: Draw) -> tuple:
    p = plan(d)
    grid = d.smooth(len(p.points), d.size(1, 10), *p.grid_shape, dtype=complex_of(d))
    return grid, *gridding(p), list(p.tiles)


def toeplitz_turn(d: Draw) -> tuple:
    dtype, shape = complex_of(d), (d.size(0, 6), d.size(1, 40), d.size(1, 60))
    return d.smooth(*shape, dtype=dtype), d.smooth(shape[1], dtype=dtype)


def toeplitz_unturn(d: Draw) -> tuple:
    dtype, shape = complex_of(d), (d.size(0, 6), 2, d.size(1, 60), d.size(1, 40))
    return d.smooth(*shape, dtype=dtype), d.smooth(shape[3], dtype=dtype)


def coil_images(d: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, *N), maps (B or 1, C, *N) and a modulation (N0,)."""
    shape = [d.size(1, 14) for _ in range(d.random.randint(2, 3))]
    batch, coils, dtype = d.size(1, 4), d.size(1, 6), complex_of(d)
    maps = d.smooth(d.random.choice([1, batch]), coils, *shape, dtype=dtype)
    return d.smooth(batch, *shape, dtype=dtype), maps, d.smooth(shape[0], dtype=dtype)


def toeplitz_expand(d: Draw) -> tuple:
    return coil_images(d)


def toeplitz_filter(d: Draw) -> tuple:
    _, maps, _ = coil_images(d)
    return maps, d.smooth(d.random.choice([1, len(maps)]), *maps.shape[2:])


def toeplitz_reduce(d: Draw) -> tuple:
    image, maps, modulation = coil_images(d)
    shape = (len(image), maps.shape[1], 2, *image.shape[2:], image.shape[1])
    return d.smooth(*shape, dtype=image.dtype), maps, modulation, image


def toeplitz_normal(d: Draw) -> tuple:
    dims = d.random.randint(2, 3)
    shape = [1] * dims
    for axis in range(dims):
        for _ in range(d.random.randrange(6)):
            prime = d.random.choice([2, 2, 2, 3, 5, 7, 11, 127])
            shape[axis] *= prime if shape[axis] * prime <= (130, 24)[dims - 2] else 1
    batch, coils, dtype = d.size(1, 3), d.size(1, 4), complex_of(d)
    maps, kernels, weights = (d.random.choice([1, batch]) for _ in range(3))
    return (
        d.smooth(batch, *shape, dtype=dtype),
        d.smooth(maps, coils, *shape, dtype=dtype),
        d.smooth(kernels, 2**dims, *shape),
        d.smooth(weights),
    )


def cg_step(d: Draw) -> tuple:
    batch, n = d.size(0, 5), d.size(1, 600)
    x, r, p = (d.smooth(batch, n) for _ in range(3))
    # q = A p of a diagonal A, of one sign per system: <p, q> must not be a cancelled sum, whose
    # rounding would decide the step. A negative one takes the branch that freezes the system.
    sign = torch.where(torch.rand(batch, 1) < 0.2, -1.0, 1.0)
    q = p * (sign * (0.1 + torch.rand(batch, n))).to(r.real.dtype)
    stop = torch.where(torch.rand(batch) < 0.3, torch.inf, 0).to(d.dtype)
    return x, r, p, q, r.square().sum(1), stop


@dataclass(frozen=True)
class Operator:
    """How to draw arguments, and the reference. ``exact``: bits agree, as sums are of integers."""

    draw: Callable[[Draw], tuple]
    reference: Callable[..., Any]
    exact: bool


OPERATORS: dict[str, Operator] = {
    **{
        draw.__name__: Operator(draw, getattr(module, draw.__name__), exact)
        for module, exact, draws in (
            (reference_codebook, True, (codebook_lookup, codebook_sums)),
            (reference_sparse, True, (topk_encode, threshold_encode, topk_select)),
            (reference_sparse, True, (sparse_decode, sparse_decode_backward)),
            (reference_sparse, True, (sparse_encode_backward,)),
            (reference, False, (spread, interp, toeplitz_expand, toeplitz_filter)),
            (reference, False, (toeplitz_turn, toeplitz_unturn)),
            (reference, False, (toeplitz_reduce, toeplitz_normal, cg_step)),
        )
        for draw in draws
    },
    "batchtopk_encode": Operator(topk_encode, reference_sparse.batchtopk_encode, True),
}


def results(found: Any) -> Iterator[Tensor]:
    yield from (found,) if isinstance(found, Tensor) else found


def agree(found: Tensor, wanted: Tensor, exact: bool) -> bool:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if exact or found.numel() == 0:
        return torch.equal(found, wanted)
    single = found.dtype in (torch.float32, torch.complex64)
    # Relative to the largest value: sums in another order cancel differently.
    bound = (2e-4 if single else 1e-11) * float(wanted.abs().max())
    return bool(((found - wanted).abs() <= bound).all())


def fuzz(name: str, cases: int, seed: int) -> float:
    """Run the cases of one operator; seconds.

    Raises:
        AssertionError: One differs from the reference, or did not run compiled.
    """
    operator, begin = OPERATORS[name], time.perf_counter()
    for case in range(cases):
        draw = Draw(Random(f"{seed} {name} {case}"))
        arguments = operator.draw(draw)
        before = OPS._native_call_count()
        torch.set_num_threads(1 + case % 2)
        found = getattr(OPS, name)(*arguments)
        empty = all(t.numel() == 0 for t in results(found))
        assert empty or OPS._native_call_count() > before, f"{name} did not run compiled"
        wanted = operator.reference(*arguments)
        for a, b in zip(results(found), results(wanted), strict=True):
            assert agree(a, b, operator.exact), f"{name}: case {case}, seed {seed}"
    return time.perf_counter() - begin


def main() -> None:
    """Build, or run the operators that were named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operators", nargs="*", default=[], help="all unless named")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--build", action="store_true", help="only compile; prints the library")
    parser.add_argument("--library", help="the compiled library")
    args = parser.parse_args()
    if args.build:
        print(build())
        return
    torch.ops.load_library(args.library)
    isa = ("portable", "avx2", "avx512")[int(OPS._cpu_isa())]
    for name in args.operators or OPERATORS:
        seconds = fuzz(name, args.cases, args.seed)
        line = {"operator": name, "cases": args.cases, "seconds": round(seconds, 1), "isa": isa}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
