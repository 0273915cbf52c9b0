"""Times a sparse autoencoder's whole training step against dense autograd and other projects.

Runs alone: ``python benchmarks/bench_sae.py [--quick] [--peers FOLDER] [--store FOLDER]``. A step
is encode, decode, loss, backward, projection, clipping, Adam and normalisation. Peers that can't be
imported get rows that say so; ``pip install --target FOLDER --no-deps sae-lens eai-sparsify
dictionary-learning`` and what they import, outside the environment, brings them in. With a store
of embeddings it also trains ours and the dense form on the same rows and prints both R2.
"""

import harness  # before torch: it sets how idle threads wait

# isort: split
import argparse
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sagittal_core.ops.sparse import SparseCodes
from sagittal_genai.data import EmbeddingData
from sagittal_genai.metrics.fidelity import Fidelity
from sagittal_genai.nn.activations import TopK
from sagittal_genai.nn.sae import SAEOutput, SparseAutoencoder
from sagittal_genai.sail import adam

LR = 1e-3
Step = Callable[[Tensor], object]


class DenseAutoencoder(SparseAutoencoder):
    """The same autoencoder on (N, F) matrices."""

    def forward(self, x: Tensor) -> SAEOutput:
        normalised = x * self.scale
        p = torch.relu(torch.addmm(self.b_e, normalised - self.b_d, self.W_e.T))
        values, indices = p.topk(self.activation.k, sorted=False)
        codes = torch.zeros_like(p).scatter(1, indices, values)
        decoded = torch.addmm(self.b_d, codes, self.W_d)
        return SAEOutput(decoded[None], normalised, SparseCodes(indices, values), x.new_zeros(()))


def own_step(sae: SparseAutoencoder) -> Step:
    """What SAIL does with a batch, without Lightning."""
    optimizer = adam(sae, LR)

    def step(x: Tensor) -> None:
        out = sae(x)
        loss = (out.reconstructions - out.normalised).square().mean()
        loss = loss + sae.auxiliary_loss(out, 10_000_000, sae.W_d.shape[1] // 2) / 32
        sae.count_use(out.codes, len(x))
        optimizer.zero_grad()
        loss.backward()
        sae.project_gradient()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        sae.normalise()

    return step


def ours(dim: int, features: int, k: int) -> Step:
    return own_step(SparseAutoencoder(dim, features, TopK(k)).train())


def dense(dim: int, features: int, k: int) -> Step:
    return own_step(DenseAutoencoder(dim, features, TopK(k)).train())


def sae_lens(dim: int, features: int, k: int, sparse: bool = False) -> Step:
    """The step of its trainer; sparse activations fail on a CPU unless norms are left alone."""
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    options = {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False}
    config = TopKTrainingSAEConfig(d_in=dim, d_sae=features, k=k, **(options if sparse else {}))
    plan = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=4096, lr=LR, lr_end=LR
    )
    return SAETrainer(plan, TopKTrainingSAE(config), iter(())).step


def sae_lens_sparse(dim: int, features: int, k: int) -> Step:
    return sae_lens(dim, features, k, sparse=True)


def dictionary_learning(dim: int, features: int, k: int) -> Step:
    """The update of its TopKTrainer."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(10**6, dim, features, k, layer=0, lm_name="none", lr=LR, device="cpu")
    return lambda x: trainer.update(1, x)


def sparsify(dim: int, features: int, k: int) -> Step:
    """Its coder and its projections; its trainer wants a language model."""
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(dim, SparseCoderConfig(num_latents=features, k=k))
    optimizer = torch.optim.Adam(coder.parameters(), lr=LR)

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        coder(x, dead_mask=None).fvu.backward()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        coder.set_decoder_norm_to_unit_norm()

    return step


MAKERS = {
    "sagittal": ours,
    "dense": dense,
    "sae-lens": sae_lens,
    "sae-lens, sparse": sae_lens_sparse,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
}


def measure(x: Tensor, features: int, k: int, rounds: int) -> list[harness.Row]:
    """One row for each peer; the rate is in thousands of rows a second."""
    works: dict[str, harness.Work] = {}
    missing = []
    for peer, make in MAKERS.items():
        try:
            step = make(x.shape[1], features, k)
        except ImportError as error:
            print(f"{peer}: not installed ({error})")
            missing.append(peer)
            continue
        works[peer] = lambda step=step: step(x)
    memory = {peer: harness.extra_memory(work) for peer, work in works.items()}
    times = harness.interleaved(works, rounds)
    case = f"{len(x)}x{x.shape[1]}->{features}, k={k}"
    threads = torch.get_num_threads()
    found = [
        harness.Row(
            case=case,
            operation="train step",
            peer=peer,
            threads=threads,
            ms=min(times[peer]),
            ratio=harness.paired_ratio(times[peer], times["sagittal"]),
            giga=len(x) / min(times[peer]),
            unit="krow/s",
            extra_mb=memory[peer],
        )
        for peer in works
    ]
    return found + [
        harness.Row(
            case=case, operation="train step", peer=peer, threads=threads, ms=None, ratio=None
        )
        for peer in missing
    ]


def compare_r2(store: Path, features: int, k: int, batch: int, steps: int) -> dict[str, float]:
    """R2 on validation rows after the same steps on the same training rows, both forms."""
    data = EmbeddingData(str(store), batch_size=batch)
    data.setup()
    found = {}
    for name, kind in (("sagittal", SparseAutoencoder), ("dense", DenseAutoencoder)):
        first = data.initial_rows()
        sae = kind(first.shape[1], features, TopK(k)).train()
        sae.initialise(first)
        step, done = own_step(sae), 0
        while done < steps:
            loader = data.train_dataloader()
            for x in loader:
                step(x)
                done += 1
                if done == steps:
                    break
        sae.eval()
        fidelity = Fidelity(first.shape[1], features)
        with torch.no_grad():
            for x in data.val_dataloader():
                out = sae(x)
                fidelity.update(out.normalised, out.reconstructions[-1], out.codes)
        found[name] = float(fidelity.compute()["r2"])
    return found


def arguments() -> argparse.Namespace:
    parser = harness.arguments(__doc__)
    parser.add_argument("--peers", type=Path, default=os.environ.get("SAGITTAL_PEERS"))
    parser.add_argument("--store", type=Path, help="embeddings: also compares R2 on its rows")
    parser.add_argument("--width", type=int, nargs="+", default=[1024, 1280])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=100, help="of the comparison of R2")
    return parser.parse_args()


def main() -> None:
    """Measure, print and write."""
    args = arguments()
    if args.peers is not None:
        sys.path.insert(0, str(args.peers))
        warnings.filterwarnings("ignore")  # theirs
    features, k, batch = (64, 4, 32) if args.quick else (16384, 32, args.batch)
    rounds = 2 if args.quick else min(args.rounds, 3)
    rows: list[harness.Row] = []
    machine = {}
    for threads, rates in harness.thread_counts(args.threads):
        machine[threads] = rates
        for width in [16] if args.quick else args.width:
            torch.manual_seed(0)
            found = measure(torch.randn(batch, width), features, k, rounds)
            harness.print_rows(found)
            rows += found
    r2 = {}
    if args.store is not None:
        torch.set_num_threads(max(args.threads))
        r2 = compare_r2(args.store, features // 2, k, batch // 4, args.steps)
        for name, value in r2.items():
            print(f"R2 on validation rows after {args.steps} steps, {name}: {value:.4f}")
    harness.save("bench_sae", rows, args, machine=machine, r2=r2)


if __name__ == "__main__":
    main()
