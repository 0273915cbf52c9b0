"""Checkpoints of other projects: SAIL (Lightning), SAELens and sparsify (safetensors).

An option that changes the computation and is not understood is an error, never ignored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sagittal_core.callbacks import read_checkpoint
from sagittal_core.errors import ConfigError, DataError
from sagittal_genai.nn.activations import BatchTopK, FixedThreshold, TopK
from sagittal_genai.nn.sae import SparseAutoencoder
from sagittal_genai.nn.sail_compat import ReleasedThreshold, SAILCompat

SAELENS, SPARSIFY = "sae_weights.safetensors", "sae.safetensors"


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: The file is missing or holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(file, key="file", expected="a JSON object", found=str(error)) from None
    if not isinstance(found, dict):
        raise DataError(file, key="file", expected="a JSON object", found=type(found).__name__)
    return found


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(file, key="file", expected="a safetensors file", found=str(error)) from None


def _expect_keys(file: Path, found: dict[str, Any], needed: set[str]) -> None:
    if set(found) != needed:
        raise DataError(
            file,
            key="tensors",
            expected=", ".join(sorted(needed)),
            found=", ".join(sorted(found)) or "none",
        )


def _expect_values(file: Path, config: dict[str, Any], allowed: dict[str, tuple[Any, ...]]) -> None:
    for key, values in allowed.items():
        if key in config and config[key] not in values:
            expected = " or ".join(repr(value) for value in values)
            raise DataError(file, key=key, expected=expected, found=repr(config[key]))


def _expect_known(file: Path, config: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(config) - known)
    if unknown:
        raise DataError(
            file,
            key=", ".join(unknown),
            expected="options that are understood",
            found=", ".join(repr(config[key]) for key in unknown),
            hint="they may change the computation, so they are not ignored",
        )


def _autoencoder(
    file: Path, weights: dict[str, Tensor], activation: nn.Module, sizes: tuple[int, int]
) -> SparseAutoencoder:
    """From W_e, W_d, b_e and b_d; units are those of the input."""
    features, dim = sizes
    shapes = {"W_e": (features, dim), "W_d": (features, dim), "b_e": (features,), "b_d": (dim,)}
    network = SparseAutoencoder(dim, features, activation)
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            found = str(tuple(weights[name].shape))
            raise DataError(file, key=name, expected=str(shape), found=found)
        getattr(network, name).data.copy_(weights[name].float())
    network.initialised.fill_(True)
    return network


# --- sparsify -------------------------------------------------------------------------------------

_SPARSIFY_ALLOWED: dict[str, tuple[Any, ...]] = {
    "activation": ("topk",),
    "skip_connection": (False,),
    "transcode": (False,),
    "signed": (False,),  # of early versions
}
# What only training looks at, and sizes.
_SPARSIFY_KNOWN = {
    "d_in",
    "k",
    "num_latents",
    "expansion_factor",
    "normalize_decoder",
    "multi_topk",
}


def read_sparsify(path: Path) -> SparseAutoencoder:
    """A folder of ``sparsify`` (EleutherAI): cfg.json and sae.safetensors.

    ``encoder.weight`` (F, D), ``encoder.bias`` (F,), ``W_dec`` (F, D), ``b_dec`` (D,); ``k``,
    ``d_in`` and ``num_latents`` or ``expansion_factor`` in cfg.json.

    Raises:
        DataError: The files are damaged, or ask for a transcoder, a skip connection or groupmax.
    """
    folder = path.parent if path.suffix == ".safetensors" else path
    file, config = folder / "cfg.json", read_json(folder / "cfg.json")
    _expect_known(file, config, _SPARSIFY_KNOWN | set(_SPARSIFY_ALLOWED))
    _expect_values(file, config, _SPARSIFY_ALLOWED)
    dim = _integer(file, config, "d_in")
    features = config.get("num_latents") or dim * _integer(file, config, "expansion_factor")
    tensors = read_tensors(folder / SPARSIFY)
    names = {"encoder.weight": "W_e", "encoder.bias": "b_e", "W_dec": "W_d", "b_dec": "b_d"}
    _expect_keys(folder / SPARSIFY, tensors, set(names))
    weights = {ours: tensors[theirs] for theirs, ours in names.items()}
    activation = TopK(_integer(file, config, "k"))
    return _autoencoder(folder / SPARSIFY, weights, activation, (features, dim))


def _integer(file: Path, config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise DataError(file, key=key, expected="a whole number", found=repr(value))
    if value < 1:
        raise DataError(file, key=key, expected="at least 1", found=repr(value))
    return int(value)


# --- SAELens --------------------------------------------------------------------------------------

_SAELENS_ALLOWED: dict[str, tuple[Any, ...]] = {
    "architecture": ("standard", "topk", "jumprelu", "batchtopk"),
    # The others scale or shift each row, or by a number that the folder does not hold.
    "normalize_activations": ("none", None, False),
    "reshape_activations": ("none",),
    "finetuning_scaling_factor": (False, None),
    "activation_fn": ("relu", "topk"),
    "activation_fn_str": ("relu", "topk"),
    "noise_scale": (0, 0.0),
}
_SAELENS_READ = {
    "d_in", "d_sae", "k", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm",
    "activation_fn_kwargs",
}  # fmt: skip
# Where the weights are from and how they were trained: nothing that changes the computation.
_SAELENS_NOTES = """
    dtype device metadata sae_lens_version sae_lens_training_version model_name
    model_from_pretrained_kwargs model_kwargs hook_name hook_point hook_layer
    hook_point_layer hook_head_index hook_point_head_index context_size prepend_bos
    dataset_path dataset_trust_remote_code neuronpedia_id seqpos_slice decoder_init_norm
    aux_loss_coefficient use_sparse_activations topk_threshold_lr l1_coefficient lp_norm
    l1_warm_up_steps jumprelu_init_threshold jumprelu_bandwidth
    jumprelu_sparsity_loss_mode l0_coefficient l0_warm_up_steps pre_act_loss_coefficient
    jumprelu_tanh_scale jumprelu_ste_to_input target_l0
"""


def read_saelens(path: Path) -> SparseAutoencoder:
    """A folder of ``sae-lens``: cfg.json and sae_weights.safetensors.

    ``W_enc`` (D, F), ``W_dec`` (F, D), ``b_enc`` (F,), ``b_dec`` (D,); ``threshold`` (F,) of a
    jumprelu, ``topk_threshold`` of a batchtopk in training. Decoder norms that scale activations,
    and inputs that ``b_dec`` is not taken from, are folded into the weights.

    Raises:
        DataError: The files are damaged, or have an option that is not understood.
    """
    folder = path.parent if path.suffix == ".safetensors" else path
    file, config = folder / "cfg.json", read_json(folder / "cfg.json")
    known = _SAELENS_READ | set(_SAELENS_ALLOWED) | set(_SAELENS_NOTES.split())
    _expect_known(file, config, known)
    _expect_values(file, config, _SAELENS_ALLOWED)
    config = _without_old_names(file, config)
    kind = str(config["architecture"])
    tensors = read_tensors(folder / SAELENS)
    extra = {"jumprelu": {"threshold"}, "batchtopk": {"topk_threshold"}}.get(kind, set())
    _expect_keys(folder / SAELENS, tensors, {"W_enc", "W_dec", "b_enc", "b_dec"} | extra)
    tensors = {name: value.float() for name, value in tensors.items()}
    sizes = (_integer(file, config, "d_sae"), _integer(file, config, "d_in"))
    weights = {"W_e": tensors["W_enc"].T, "W_d": tensors["W_dec"]}
    weights |= {"b_e": tensors["b_enc"], "b_d": tensors["b_dec"]}
    activation = _saelens_activation(file, config, tensors, sizes[0])
    network = _autoencoder(folder / SAELENS, weights, activation, sizes)
    with torch.no_grad():
        if config.get("rescale_acts_by_decoder_norm", False):
            norm = network.W_d.norm(dim=1)
            network.W_e.mul_(norm[:, None])
            network.b_e.mul_(norm)
            network.W_d.div_(norm[:, None])
        if not config.get("apply_b_dec_to_input", True):
            network.b_e.add_(network.W_e @ network.b_d)
    return network


def _without_old_names(file: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Before version 6 the activation had a name and arguments of its own."""
    config = {"architecture": "standard"} | config
    named = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    arguments = config.get("activation_fn_kwargs") or {}
    _expect_known(file, arguments, {"k"} if named == "topk" else set())
    if named == "topk":
        _expect_values(file, config, {"architecture": ("standard", "topk")})
        config = {"k": arguments.get("k")} | config | {"architecture": "topk"}
    return config


def _saelens_activation(
    file: Path, config: dict[str, Any], tensors: dict[str, Tensor], features: int
) -> nn.Module:
    kind = config["architecture"]
    if kind == "topk":
        return TopK(_integer(file, config, "k"))
    if kind == "batchtopk":
        activation = BatchTopK(_integer(file, config, "k"))
        activation.threshold.copy_(tensors["topk_threshold"])
        activation.batches.fill_(1)
        return activation
    fixed = FixedThreshold(features)
    if kind == "jumprelu":
        if tuple(tensors["threshold"].shape) != (features,):
            found = str(tuple(tensors["threshold"].shape))
            raise DataError(file, key="threshold", expected=f"({features},)", found=found)
        fixed.threshold.copy_(tensors["threshold"])
    return fixed


# --- SAIL -----------------------------------------------------------------------------------------


def read_sail(path: Path) -> SAILCompat:
    """A Lightning checkpoint of SAIL's code, or the folder of its hparams.yaml.

    ``model.encoder.weight`` (F, D), ``model.encoder.bias`` (F,), ``model.bias`` (D,), and untied
    ``model.decoder.weight`` (D, F); ``model._threshold_sum``, ``model._threshold_count`` and
    ``model.inference_threshold``; ``input_dim``, ``dictionary_sizes`` and ``k_values`` in
    hparams.yaml, beside the checkpoint or a folder above it.

    Raises:
        DataError: The files are damaged, or do not belong together.
    """
    file = path if path.suffix == ".ckpt" else path / "checkpoints" / "last.ckpt"
    hparams, config = _hparams(file)
    try:
        state = read_checkpoint(file)["state_dict"]
    except (ConfigError, KeyError) as error:
        raise DataError(
            file, key="state_dict", expected="tensors and plain types", found=str(error)
        ) from None
    untied = "model.decoder.weight" in state
    names = "encoder.weight encoder.bias bias inference_threshold _threshold_sum _threshold_count"
    needed = {f"model.{name}" for name in names.split()} | (
        {"model.decoder.weight"} if untied else set()
    )
    _expect_keys(file, state, needed)
    try:
        network = SAILCompat(
            config["input_dim"], config["dictionary_sizes"], config["k_values"], tied=not untied
        )
        with torch.no_grad():
            _copy(network, state, untied)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            hparams,
            key="input_dim, dictionary_sizes, k_values",
            expected=f"those of {file.name}",
            found=f"{type(error).__name__}: {error}",
        ) from None
    return network


def _hparams(file: Path) -> tuple[Path, dict[str, Any]]:
    for folder in (file.parent, file.parent.parent):
        hparams = folder / "hparams.yaml"
        if hparams.is_file():
            try:
                config = yaml.safe_load(hparams.read_text(encoding="utf-8"))
            except yaml.YAMLError as error:
                raise DataError(hparams, key="file", expected="YAML", found=str(error)) from None
            if isinstance(config, dict):
                return hparams, config
    raise DataError(
        file, key="hparams.yaml", expected="beside it or one folder above", found="no such file"
    )


def _copy(network: SAILCompat, state: dict[str, Tensor], untied: bool) -> None:
    network.W_e.copy_(state["model.encoder.weight"])
    network.b_e.copy_(state["model.encoder.bias"])
    network.b_d.copy_(state["model.bias"])
    if untied:
        network.W_d.copy_(state["model.decoder.weight"].T)
    activation = network.activation
    assert isinstance(activation, ReleasedThreshold)
    count = int(state["model._threshold_count"])
    # A threshold that was given, not counted, stands alone.
    theta = state["model._threshold_sum"] if count else state["model.inference_threshold"]
    activation.total.copy_(theta)
    activation.batches.fill_(max(1, count))
    network.initialised.fill_(True)
