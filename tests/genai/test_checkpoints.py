"""Autoencoders written and read back, and read from files in the formats of other projects.

The files of other projects are written here key by key, as their code writes them; the tests marked
study compare with the packages themselves, where they can be imported (``SAGITTAL_PEERS`` names a
folder for ``pip install --target``).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sagittal_core.errors import DataError
from sagittal_genai.checkpoints import (
    DESCRIPTION,
    WEIGHTS,
    is_checkpoint,
    load_checkpoint,
    save_autoencoder,
    save_saelens,
)
from sagittal_genai.nn.activations import BatchTopK, FixedThreshold, JumpReLU, TopK
from sagittal_genai.nn.sae import SparseAutoencoder
from sagittal_genai.nn.sail_compat import SAILCompat

N, D, F, K = 20, 6, 24, 3


def rows(n: int = N, seed: int = 0) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def weights() -> dict[str, Tensor]:
    """Random ones, the decoder's rows not of unit length."""
    g = torch.Generator().manual_seed(3)
    shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
    return {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}


def ours(kind: str) -> SparseAutoencoder:
    activations = {"topk": TopK(K), "batchtopk": BatchTopK(K), "jumprelu": JumpReLU(F, K)}
    sae: SparseAutoencoder
    if kind == "compat":
        sae = SAILCompat(D, [8, F], [2, K], seed=1)
    elif kind == "tied":
        sae = SparseAutoencoder(D, F, TopK(K), tied=True)
    elif kind == "per prefix":
        sae = SparseAutoencoder(D, F, BatchTopK(K), prefixes=[8, F], prefix_k=[2, K])
    elif kind == "fixed":
        sae = SparseAutoencoder(D, F, FixedThreshold(F))
        sae.activation.threshold.copy_(torch.linspace(0, 1, F))
    else:
        sae = SparseAutoencoder(D, F, activations[kind], prefixes=[8, F])
    sae.initialise(5 * rows(200, 1) + 2)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator())
    sae.train()(5 * rows(200, 2) + 2)  # so that there are thresholds
    return sae.eval()


KINDS = ["topk", "batchtopk", "jumprelu", "compat", "tied", "per prefix", "fixed"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_autoencoder_written_is_the_one_read(kind: str, tmp_path: Path) -> None:
    sae, x = ours(kind), 5 * rows() + 2
    save_autoencoder(sae, tmp_path / "out")
    assert is_checkpoint(tmp_path / "out")
    for path in (tmp_path / "out", tmp_path / "out" / WEIGHTS):
        found = load_checkpoint(path)
        assert type(found) is type(sae)
        assert not found.training
        assert torch.equal(found(x).reconstructions, sae(x).reconstructions)
    assert (found.W_d is found.W_e) == (kind in ("tied", "compat"))
    assert found.state_dict().keys() == sae.state_dict().keys()
    assert {k: v for k, v in vars(found.activation).items() if k[0] != "_"} == {
        k: v for k, v in vars(sae.activation).items() if k[0] != "_"
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_saelens_layout_computes_the_same(kind: str, tmp_path: Path) -> None:
    sae, x = ours(kind), 5 * rows() + 2
    save_saelens(sae, tmp_path)
    expected = sae.decode(sae.encode(x))
    config, w = json.loads((tmp_path / "cfg.json").read_text()), load_file(tmp_path / SAELENS)
    torch.testing.assert_close(saelens_dense(config, w, x), expected, atol=1e-4, rtol=1e-4)
    found = load_checkpoint(tmp_path)
    torch.testing.assert_close(found.decode(found.encode(x)), expected, atol=1e-4, rtol=1e-4)


SAELENS = "sae_weights.safetensors"


def saelens_dense(config: dict[str, Any], w: dict[str, Tensor], x: Tensor) -> Tensor:
    """What sae-lens computes, in plain torch."""
    p = (x - w["b_dec"] * config["apply_b_dec_to_input"]) @ w["W_enc"] + w["b_enc"]
    norm = w["W_dec"].norm(dim=1) if config.get("rescale_acts_by_decoder_norm") else torch.ones(F)
    p = p * norm
    if config["architecture"] == "topk":
        z = torch.zeros_like(p).scatter(1, p.topk(config["k"]).indices, 1) * p.relu()
    elif config["architecture"] == "jumprelu":
        z = p.relu() * (p > w["threshold"])
    else:
        z = p.relu()
    return z / norm @ w["W_dec"] + w["b_dec"]


def write_saelens(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> Path:
    """cfg.json as version 6 writes it, beside sae_weights.safetensors."""
    plain = {
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "model_name": "m", "hook_name": "h"},
    }
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(plain | config))
    save_file({name: value.contiguous() for name, value in state.items()}, folder / SAELENS)
    return folder


@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("kind", ["standard", "topk", "topk rescaled", "jumprelu"])
def test_saelens_folders(kind: str, apply_b_dec: bool, tmp_path: Path) -> None:
    w = weights()
    if kind == "jumprelu":
        w["threshold"] = torch.linspace(-0.5, 1, F)
    config: dict[str, Any] = {"architecture": kind.split()[0], "apply_b_dec_to_input": apply_b_dec}
    if "topk" in kind:
        config |= {"k": K, "rescale_acts_by_decoder_norm": "rescaled" in kind}
    write_saelens(tmp_path, config, w)
    sae = load_checkpoint(tmp_path)
    found, wanted = sae.decode(sae.encode(rows())), saelens_dense(config, w, rows())
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert float(wanted.std()) > 0.5


def test_a_batchtopk_of_saelens_keeps_its_threshold(tmp_path: Path) -> None:
    w = weights() | {"topk_threshold": torch.tensor(0.7, dtype=torch.float64)}
    write_saelens(tmp_path, {"architecture": "batchtopk", "k": 3.0, "topk_threshold_lr": 0.01}, w)
    sae = load_checkpoint(tmp_path)
    w["threshold"] = torch.full((F,), 0.7)
    wanted = saelens_dense({"architecture": "jumprelu", "apply_b_dec_to_input": True}, w, rows())
    torch.testing.assert_close(sae.decode(sae.encode(rows())), wanted, atol=1e-5, rtol=1e-5)
    assert sae.activation.k == 3


def test_saelens_folders_of_before_version_6(tmp_path: Path) -> None:
    old = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "hook_layer": 3}
    write_saelens(tmp_path, old, weights())
    sae = load_checkpoint(tmp_path)
    config = {"architecture": "topk", "k": K, "apply_b_dec_to_input": True}
    wanted = saelens_dense(config, weights(), rows())
    torch.testing.assert_close(sae.decode(sae.encode(rows())), wanted, atol=1e-5, rtol=1e-5)


SAELENS_ERRORS = [
    ({"architecture": "gated"}, "gated"),
    ({"architecture": "matryoshka_batchtopk"}, "matryoshka_batchtopk"),
    ({"normalize_activations": "layer_norm"}, "layer_norm"),
    ({"normalize_activations": "expected_average_only_in"}, "expected_average_only_in"),
    ({"reshape_activations": "hook_z"}, "hook_z"),
    ({"sharpness": 2.5}, "sharpness"),
    ({"architecture": "topk", "k": 2.5}, "whole number"),
    ({"architecture": "topk"}, "whole number"),
    ({"architecture": "jumprelu"}, "threshold"),
    ({"d_sae": F + 1}, "W_e"),
    ({"activation_fn": "tanh-relu"}, "tanh-relu"),
    ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 3, "post": "x"}}, "post"),
]


@pytest.mark.parametrize(("config", "named"), SAELENS_ERRORS)
def test_what_saelens_means_otherwise_is_refused(
    config: dict[str, Any], named: str, tmp_path: Path
) -> None:
    write_saelens(tmp_path, {"architecture": "standard"} | config, weights())
    with pytest.raises(DataError, match=named):
        load_checkpoint(tmp_path)


def write_sparsify(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> Path:
    """cfg.json: SparseCoderConfig and d_in; sae.safetensors: the module's state."""
    plain = {
        "activation": "topk",
        "expansion_factor": F // D,
        "normalize_decoder": True,
        "num_latents": 0,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D,
    }
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(plain | config))
    save_file(state, folder / "sae.safetensors")
    return folder


def sparsify_state() -> dict[str, Tensor]:
    w = weights()
    state = {"encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"]}
    return state | {"W_dec": w["W_dec"], "b_dec": w["b_dec"]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparsify_folders(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: value.to(dtype) for name, value in sparsify_state().items()}
    sae = load_checkpoint(write_sparsify(tmp_path, {"num_latents": F}, state))
    s = {name: value.float() for name, value in state.items()}
    p = torch.relu((rows() - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"])
    z = torch.zeros_like(p).scatter(1, p.topk(K).indices, 1) * p
    found = sae.decode(sae.encode(rows()))
    torch.testing.assert_close(found, z @ s["W_dec"] + s["b_dec"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"activation": "groupmax"},
        {"skip_connection": True},
        {"transcode": True},
        {"signed": True},
        {"k": 0},
        {"temperature": 1.0},
    ],
)
def test_what_sparsify_means_otherwise_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=next(iter(config))):
        load_checkpoint(write_sparsify(tmp_path, config, sparsify_state()))


def test_more_weights_than_understood_are_refused(tmp_path: Path) -> None:
    state = sparsify_state() | {"W_skip": torch.zeros(D, D)}
    with pytest.raises(DataError, match="W_skip"):
        load_checkpoint(write_sparsify(tmp_path, {}, state))


def write_sail(folder: Path, untied: bool, count: int = 3, **config: Any) -> dict[str, Tensor]:
    """hparams.yaml of the training script above checkpoints/last.ckpt of Lightning."""
    w = weights()
    state = {
        "model.inference_threshold": torch.tensor(0.25),
        "model._threshold_sum": torch.tensor(0.75 if count else 0.0),
        "model._threshold_count": torch.tensor(count),
        "model.encoder.weight": w["W_enc"].T.contiguous(),
        "model.encoder.bias": w["b_enc"],
        "model.bias": w["b_dec"],
    }
    if untied:
        state["model.decoder.weight"] = w["W_dec"].T.contiguous()
    (folder / "checkpoints").mkdir(parents=True)
    kept = {"input_dim": D, "dictionary_sizes": [8, F], "k_values": [2, K]}
    kept |= {"train_parquet": "t", "val_parquet": "v"} | config
    (folder / "hparams.yaml").write_text(yaml.safe_dump(kept))
    whole = {"state_dict": state, "epoch": 99, "hyper_parameters": {"tied_weights": not untied}}
    torch.save(whole, folder / "checkpoints" / "last.ckpt")
    return state


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("count", [3, 0])
def test_checkpoints_of_sail(untied: bool, count: int, tmp_path: Path) -> None:
    s = write_sail(tmp_path / "run", untied, count)
    w_e = s["model.encoder.weight"]
    w_d = s["model.decoder.weight"].T if untied else w_e
    p = (rows() - s["model.bias"]) @ w_e.T + s["model.encoder.bias"]
    z = (p - 0.25).clamp(min=0)
    wanted = torch.stack([z[:, :end] @ w_d[:end] + s["model.bias"] for end in (8, F)])
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"):
        sae = load_checkpoint(path)
        torch.testing.assert_close(sae(rows()).reconstructions, wanted, atol=1e-5, rtol=1e-5)


def test_a_sail_checkpoint_that_is_not_whole_is_named(tmp_path: Path) -> None:
    write_sail(tmp_path / "a", False, dictionary_sizes=[8, F + 1])
    with pytest.raises(DataError, match="dictionary_sizes"):
        load_checkpoint(tmp_path / "a")
    write_sail(tmp_path / "b", False)
    (tmp_path / "b" / "hparams.yaml").unlink()
    with pytest.raises(DataError, match=r"hparams\.yaml"):
        load_checkpoint(tmp_path / "b" / "checkpoints" / "last.ckpt")
    write_sail(tmp_path / "c", False)
    torch.save({"state_dict": nn.Linear(2, 2)}, tmp_path / "c" / "checkpoints" / "last.ckpt")
    with pytest.raises(DataError, match="state_dict"):  # a pickle of a class
        load_checkpoint(tmp_path / "c")


def test_damaged_and_unknown_files_are_named(tmp_path: Path) -> None:
    assert not is_checkpoint(tmp_path)
    with pytest.raises(DataError, match="SAELens"):
        load_checkpoint(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        load_checkpoint(tmp_path / "missing")
    folder = tmp_path / "out"
    save_autoencoder(ours("topk"), folder)
    described = json.loads((folder / DESCRIPTION).read_text())
    for change, named in [
        ({"version": 7}, "version"),
        ({"n_features": F + 8, "prefixes": [F + 8]}, "W_e"),
        ({"class": "Other"}, "no class Other"),
        ({"activation": {"class": "TopK", "k": 3, "temperature": 1}}, "temperature"),
    ]:
        (folder / DESCRIPTION).write_text(json.dumps(described | change))
        with pytest.raises(DataError, match=named):
            load_checkpoint(folder)
    (folder / DESCRIPTION).write_text(json.dumps(described))
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])
    with pytest.raises(DataError, match="safetensors file"):
        load_checkpoint(folder)
    (folder / DESCRIPTION).write_text("{")
    with pytest.raises(DataError, match="JSON"):
        load_checkpoint(folder)


# --- the packages themselves ----------------------------------------------------------------------


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the packages were installed for this."""
    if "SAGITTAL_PEERS" in os.environ:
        monkeypatch.syspath_prepend(os.environ["SAGITTAL_PEERS"])


quiet = pytest.mark.filterwarnings("ignore")


@pytest.mark.study
@quiet
@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu", "batchtopk"])
@pytest.mark.usefixtures("peers")
def test_against_sae_lens(kind: str, tmp_path: Path) -> None:
    lens = pytest.importorskip("sae_lens", exc_type=ImportError)
    size: dict[str, Any] = {"d_in": D, "d_sae": F, "device": "cpu"}
    trained = kind == "batchtopk"
    if trained:
        size["rescale_acts_by_decoder_norm"] = True
    if kind in ("topk", "batchtopk"):
        size["k"] = K
    name = {"standard": "StandardSAE", "topk": "TopKSAE", "jumprelu": "JumpReLUSAE"}
    name |= {"batchtopk": "BatchTopKTrainingSAE"}
    config = getattr(lens, f"{name[kind]}Config")(**size)
    theirs = getattr(lens, name[kind])(config)
    state = {k: torch.randn(v.shape, dtype=v.dtype) for k, v in theirs.state_dict().items()}
    if trained:
        state["topk_threshold"] = torch.tensor(0.8, dtype=torch.float64)
        theirs.load_state_dict(state)
        theirs.save_model(tmp_path / "training")
        theirs.save_inference_model(tmp_path / "out")
        theirs = lens.SAE.load_from_disk(tmp_path / "out")
    else:
        theirs.load_state_dict(state)
        theirs.save_model(tmp_path / "out")
    x = rows()
    wanted = theirs(x).detach()
    for folder in ("out", "training") if trained else ("out",):
        sae = load_checkpoint(tmp_path / folder)
        torch.testing.assert_close(sae.decode(sae.encode(x)), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.study
@quiet
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("peers")
def test_sae_lens_reads_ours(kind: str, tmp_path: Path) -> None:
    lens = pytest.importorskip("sae_lens", exc_type=ImportError)
    sae, x = ours(kind), 5 * rows() + 2
    save_saelens(sae, tmp_path / "out")
    theirs = lens.SAE.load_from_disk(tmp_path / "out")
    found, wanted = theirs(x).detach(), sae.decode(sae.encode(x))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.study
@quiet
@pytest.mark.usefixtures("peers")
def test_against_sparsify(tmp_path: Path) -> None:
    sparsify = pytest.importorskip("sparsify", exc_type=ImportError)
    theirs = sparsify.SparseCoder(D, sparsify.SparseCoderConfig(num_latents=F, k=K))
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    theirs.save_to_disk(tmp_path / "out")
    sae, x = load_checkpoint(tmp_path / "out"), rows()
    wanted = theirs(x).sae_out.detach()
    torch.testing.assert_close(sae.decode(sae.encode(x)), wanted, atol=1e-5, rtol=1e-5)
