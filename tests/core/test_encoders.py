"""Vision encoders: real weights answer rightly, tiny checkpoints on disk are read as they say."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from sagittal_core import sample_data
from sagittal_core.encoders import Preprocessing, VisionEncoder, VisionSpec, load_vision
from sagittal_core.encoders.efficientnet import EfficientNetLite0, load_efficientnet_lite0
from sagittal_core.encoders.preprocessing import from_processor_config
from sagittal_core.encoders.weights import read_state, weights_sha256
from sagittal_core.errors import ConfigError, DataError


def features(encoder: VisionEncoder, images: list[np.ndarray]) -> Any:
    fitted = np.stack([encoder.preprocessing.fit(image) for image in images])
    return encoder(encoder.preprocessing.normalise(torch.from_numpy(fitted)))


def pictures(count: int = 3, size: tuple[int, int] = (40, 52)) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, size, dtype=np.uint8) for _ in range(count)]


@pytest.fixture(scope="module")
def lite0() -> VisionEncoder:
    return load_vision()


def test_lite0_has_its_published_size_and_names_photographs() -> None:
    """4.65 million parameters; an espresso and a cat are named as such."""
    import skimage

    network = load_efficientnet_lite0(sample_data.path("efficientnet_lite0"))
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    folder = Path(skimage.__file__).parent / "data"
    for name, classes in (("coffee.png", [967]), ("chelsea.png", [281, 282, 285])):
        picture = (
            Image.open(folder / name).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        )
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            chance = network.classify((pixels - 127) / 128).softmax(1)[0]
        assert chance[classes].sum() > 0.8


def test_lite0_features(lite0: VisionEncoder) -> None:
    pooled, tokens, grid = features(lite0, pictures())
    assert pooled.shape == (3, 1280)
    assert tokens.shape == (3, 49, 1280)
    assert grid == (7, 7)
    torch.testing.assert_close(tokens.mean(1), pooled)
    alone = torch.cat([features(lite0, [image]).pooled for image in pictures()])
    torch.testing.assert_close(alone, pooled, atol=1e-4, rtol=1e-4)
    wide = load_vision({"name": "efficientnet_lite0", "image_size": 96})
    assert features(wide, pictures()).grid == (3, 3)
    assert not any(p.requires_grad for p in lite0.parameters())
    assert not lite0.train().network.training


def test_padding_is_tensorflows() -> None:
    """A 3 x 3 kernel with stride 2 on an even image starts at the first pixel, not before it."""
    from sagittal_core.encoders.efficientnet import SameConv2d

    layer = SameConv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(layer.weight)
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, 0] = 1.0
    image[..., 2, 2] = 10.0
    assert layer(image).flatten().tolist() == [11.0, 10.0, 10.0, 10.0]


def test_twin_differs_by_seed_and_leaves_the_global_generator(lite0: VisionEncoder) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    twin, again, other = (load_vision(twin_seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    hashes = [encoder.identity["weights"] for encoder in (lite0, twin, again, other)]
    assert hashes[1] == hashes[2]
    assert len({*hashes}) == 3
    assert [e.identity["twin_seed"] for e in (lite0, twin)] == [None, 1]
    assert twin.identity["preprocessing"] == lite0.identity["preprocessing"]
    std = EfficientNetLite0().head.weight.std().item()
    assert std == pytest.approx((2 / 1280) ** 0.5, rel=0.02)
    json.dumps(twin.identity)


def test_real_features_beat_the_twins_in_a_linear_probe() -> None:
    """Which of six photographs a crop comes from, its size, brightness and contrast made random.

    Six crops a photograph to fit on, six to test; chance is one in six.
    """
    import skimage
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    generator = np.random.default_rng(0)
    folder = Path(skimage.__file__).parent / "data"
    crops = []
    for name in ("brick", "grass", "gravel", "coins", "ihc", "moon"):
        whole = np.asarray(Image.open(folder / f"{name}.png").convert("L"), np.float32)
        for _ in range(12):
            side = int(generator.integers(60, 160))
            top, left = (int(generator.integers(0, edge - side)) for edge in whole.shape)
            crop = whole[top : top + side, left : left + side]
            crop = (crop - crop.mean()) / crop.std() * generator.uniform(15, 50)
            crops.append(np.clip(crop + generator.uniform(80, 170), 0, 255).astype(np.uint8))
    targets, train = np.repeat(np.arange(6), 12), np.tile(np.arange(12) < 6, 6)
    scores = {}
    for name, seed in (("real", None), ("twin", 0)):
        rows = features(load_vision({"image_size": 96}, twin_seed=seed), crops).pooled.numpy()
        rows = StandardScaler().fit(rows[train]).transform(rows)
        probe = LogisticRegression(C=0.01, max_iter=500).fit(rows[train], targets[train])
        scores[name] = probe.score(rows[~train], targets[~train])
    assert scores["real"] > 0.75, scores
    assert scores["twin"] < 0.5, scores


def test_state_that_does_not_fit_is_named(tmp_path: Path) -> None:
    state = torch.load(sample_data.path("efficientnet_lite0"), weights_only=True)
    file = tmp_path / "w.pth"
    torch.save({k: v for k, v in state.items() if k != "_fc.bias"}, file)
    with pytest.raises(DataError, match=r"w\.pth[\s\S]*classifier\.bias"):
        load_efficientnet_lite0(file)
    torch.save({**state, "_se.weight": torch.zeros(1)}, file)
    with pytest.raises(DataError, match=r"_se\.weight"):
        load_efficientnet_lite0(file)
    torch.save(nn.Linear(2, 2), file)
    with pytest.raises(DataError, match="weights_only"):
        load_efficientnet_lite0(file)


def test_options_that_do_not_belong_are_refused() -> None:
    for spec, message in (
        ({"name": "resnet"}, "expected efficientnet_lite0, transformers"),
        ({"nam": "x"}, "unknown option nam"),
        ({"module": "a.B"}, "module is no option of efficientnet_lite0"),
        ({"image_size": 100}, "multiple of 32"),
        ({"name": "transformers"}, "set weights"),
        ({"name": "module", "module": "torch.nn.Nothing", "image_size": 8}, "set weights"),
        ({"dtype": "int8"}, "dtype 'int8'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_vision(spec)
    assert load_vision(VisionSpec(dtype="bfloat16")).identity["arithmetic"] == "bfloat16"


# ---- checkpoints of transformers, tiny and random, on disk --------------------------------------

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
SIZES |= {"image_size": 28, "patch_size": 7}
PROCESSOR = {"size": {"height": 28, "width": 28}, "image_mean": [0.4, 0.5, 0.6]}
PROCESSOR |= {"image_std": [0.2, 0.3, 0.4], "resample": 3, "do_rescale": True}
CROPPED = PROCESSOR | {"size": {"shortest_edge": 32}, "do_center_crop": True}
CROPPED |= {"crop_size": {"height": 28, "width": 28}}


def checkpoint(folder: Path, kind: str, processor: dict | None = None) -> Path:
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "siglip":
            text = {**SIZES, "vocab_size": 11, "max_position_embeddings": 8}
            config = transformers.SiglipConfig(text_config=text, vision_config=SIZES)
            network: Any = transformers.SiglipModel(config)
        elif kind == "dinov2":
            network = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES))
        elif kind == "dinov3_vit":
            config = transformers.DINOv3ViTConfig(**SIZES, num_register_tokens=3)
            network = transformers.DINOv3ViTModel(config)
        elif kind == "dinov2_with_registers":
            config = transformers.Dinov2WithRegistersConfig(**SIZES, num_register_tokens=2)
            network = transformers.Dinov2WithRegistersModel(config)
        else:
            network = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES))
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor or PROCESSOR))
    return folder


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("dinov2", 1), ("dinov2_with_registers", 3), ("dinov3_vit", 4), ("siglip", 0), ("vit", 1)],
)
def test_checkpoints_are_read_as_their_family_says(kind: str, prefix: int, tmp_path: Path) -> None:
    import transformers

    encoder = load_vision({"name": "transformers", "weights": str(checkpoint(tmp_path, kind))})
    pooled, tokens, grid = features(encoder, pictures())
    assert (pooled.shape, tokens.shape, grid) == ((3, 16), (3, 16, 16), (4, 4))
    network = transformers.AutoModel.from_pretrained(tmp_path)
    network = getattr(network, "vision_model", network).eval()
    fitted = np.stack([encoder.preprocessing.fit(image) for image in pictures()])
    with torch.no_grad():
        out = network(encoder.preprocessing.normalise(torch.from_numpy(fitted)))
    torch.testing.assert_close(tokens, out.last_hidden_state[:, prefix:])
    expected = out.last_hidden_state[:, 0] if kind == "vit" else out.pooler_output
    torch.testing.assert_close(pooled, expected)
    alone = torch.cat([features(encoder, [image]).tokens for image in pictures()])
    torch.testing.assert_close(alone, tokens, atol=1e-5, rtol=1e-4)

    spec = {"name": "transformers", "weights": str(tmp_path), "image_size": 42}
    assert features(load_vision(spec), pictures()).grid == (6, 6)
    twin = load_vision(spec, twin_seed=3)
    assert features(twin, pictures()).pooled.isfinite().all()
    assert twin.identity["weights"] == load_vision(spec, twin_seed=3).identity["weights"]
    assert twin.identity["weights"] != encoder.identity["weights"]
    assert str(tmp_path) not in json.dumps(encoder.identity)


def test_incomplete_and_unknown_checkpoints_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = checkpoint(tmp_path / "a", "dinov2")
    file = folder / "model.safetensors"
    state = load_file(file)
    save_file({k: v for k, v in state.items() if "layernorm" not in k}, file, {"format": "pt"})
    spec = {"name": "transformers", "weights": str(folder)}
    with pytest.raises(DataError, match=r"2 missing: layernorm"):
        load_vision(spec)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"tensors of Dinov2Model[\s\S]*not fully covered"):
        load_vision(spec)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(DataError, match=r"model_type[\s\S]*dinov2[\s\S]*'bert'[\s\S]*module"):
        load_vision(spec)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(DataError, match=r"preprocessor_config\.json"):
        load_vision(spec)
    for path in (tmp_path / "typo", "./typo", "models/some/typo"):  # no hub is asked for these
        with pytest.raises(DataError, match="no such folder"):
            load_vision(spec | {"weights": str(path)})
    with pytest.raises(ConfigError, match="no multiple of the patch"):
        load_vision(spec | {"weights": str(checkpoint(tmp_path / "b", "vit")), "image_size": 30})


@pytest.mark.parametrize("kind", ["Bit", "ViT", "Siglip"])
@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(20, 70),
    width=st.integers(20, 70),
    grey=st.booleans(),
    seed=st.integers(0, 9),
)
def test_preprocessing_equals_the_checkpoints_own(
    kind: str, height: int, width: int, grey: bool, seed: int
) -> None:
    import transformers

    config = CROPPED if kind == "Bit" else PROCESSOR
    theirs = getattr(transformers, f"{kind}ImageProcessorPil")(**config)
    ours = from_processor_config(theirs.to_dict() | config, "preprocessor_config.json")
    shape = (height, width) if grey else (height, width, 3)
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    rgb = Image.fromarray(image).convert("RGB")
    expected = torch.from_numpy(np.asarray(theirs(rgb)["pixel_values"]))[0]
    found = ours.normalise(torch.from_numpy(ours.fit(image))[None])[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_pad": True}, "do_pad"),
        ({"size": {"longest_edge": 3}}, "shortest_edge"),
        ({"image_mean": [1.0]}, "image_mean"),
        ({"do_resize": False}, "do_resize"),
        ({"size": {"shortest_edge": 30}}, "many sizes"),
        ({"do_center_crop": True, "crop_size": 64}, "larger than"),
        ({"resample": 9}, "resample"),
    ],
)
def test_processor_files_that_cannot_be_followed(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_processor_config(PROCESSOR | change, "preprocessor_config.json")


def test_labels_follow_the_image() -> None:
    preprocessing = Preprocessing(64, (0.5,) * 3, (0.5,) * 3, crop=(48, 48), resample="nearest")
    labels = np.random.default_rng(0).integers(0, 200, (90, 70), dtype=np.uint8)
    assert np.array_equal(preprocessing.fit_labels(labels), preprocessing.fit(labels))
    with pytest.raises(ValueError, match="uint8"):
        preprocessing.fit(labels.astype(np.int16))


# ---- modules of the user's own ------------------------------------------------------------------


class Backbone(nn.Module):
    """A user's encoder: a feature map, or the map and a pooled row."""

    def __init__(self, width: int = 5, pair: bool = False) -> None:
        super().__init__()
        self.conv, self.pair = nn.Conv2d(3, width, 4, 4), pair

    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        return (y, y.amax((2, 3))) if self.pair else y


def test_a_users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    monkeypatch.setitem(sys.modules, "users_encoders", sys.modules[__name__])
    state = {f"backbone.{k}": v for k, v in Backbone().state_dict().items()}
    file = tmp_path / "w.safetensors"
    save_file(state | {"head.weight": torch.ones(1)}, file)
    spec: dict = {"name": "module", "module": "users_encoders.Backbone", "image_size": 16}
    spec |= {"weights": str(file), "weights_prefix": "backbone."}
    encoder = load_vision(spec)
    pooled, tokens, grid = features(encoder, pictures())
    assert (pooled.shape, tokens.shape, grid) == ((3, 5), (3, 16, 5), (4, 4))
    torch.testing.assert_close(tokens.mean(1), pooled)
    largest = features(load_vision(spec | {"arguments": {"pair": True}}), pictures())
    torch.testing.assert_close(largest.pooled, largest.tokens.amax(1))
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    same = load_vision(spec | {"weights": str(tmp_path / "w.pt")})
    assert same.identity == encoder.identity
    twin = load_vision(spec, twin_seed=0)
    assert twin.identity["weights"] != encoder.identity["weights"]
    for change, message in (
        ({"weights_prefix": ""}, r"head\.weight"),
        ({"weights_prefix": "net."}, "'net.'"),
        ({"arguments": {"width": 6}}, "size mismatch"),
    ):
        with pytest.raises(DataError, match=message):
            load_vision(spec | change)
    for change, message in (
        ({"module": "users_encoders.Absent"}, "cannot import module"),
        ({"module": "users_encoders.pictures"}, "no torch.nn.Module"),
        ({"arguments": {"depth": 1}}, "depth"),
        ({"image_size": None}, "image_size"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_vision(spec | change)


def test_hash_sees_names_types_and_values() -> None:
    layer = nn.Linear(2, 2)
    first = weights_sha256(layer)
    with torch.no_grad():
        layer.bias[0] += 1
    assert weights_sha256(layer) != first
    assert weights_sha256(layer.to(torch.bfloat16)) != weights_sha256(layer.float())


def test_nothing_of_that_name_in_a_file(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "x.pt")
    with pytest.raises(DataError, match="tensors by name"):
        read_state(tmp_path / "x.pt")


def test_timm_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'sagittal-core\[timm\]'"):
        load_vision({"name": "timm", "model": "resnet18"})


class TimmMap(nn.Module):
    """As timm's convolutional networks behave: no img_size, a feature map, a pooled head."""

    pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0)}
    pretrained_cfg |= {"interpolation": "bilinear", "classifier": "fc"}

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, 8)
        self.fc = nn.Linear(4, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return x.mean((2, 3)) if pre_logits else self.fc(x.mean((2, 3)))


class TimmTokens(TimmMap):
    """As timm's vision transformers behave: prefix tokens before the patches."""

    num_prefix_tokens = 2

    def __init__(self, num_classes: int, img_size: int = 32) -> None:
        super().__init__(num_classes)
        self.patch_embed = types.SimpleNamespace(
            dynamic_feat_size=lambda size: (size[0] // 8, size[1] // 8)
        )

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.conv(x).flatten(2).transpose(1, 2)
        return torch.cat([patches.mean(1, keepdim=True), patches[:, :1], patches], 1)

    def forward_head(self, x: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return x[:, 0]


def test_timm_through_its_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm itself needs torchvision, which the tests do without: a double of what is called."""
    known = {"map": TimmMap, "tokens": TimmTokens}

    def create_model(name: str, pretrained: bool, num_classes: int, **options: int) -> nn.Module:
        assert not pretrained
        if name not in known:
            raise RuntimeError("Unknown model")
        return known[name](num_classes, **options)

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    for name, cls in known.items():
        torch.save(cls(7).state_dict(), tmp_path / "w.pt")
        spec: dict = {"name": "timm", "model": name, "weights": str(tmp_path / "w.pt")}
        encoder = load_vision(spec)
        pooled, tokens, grid = features(encoder, pictures())
        assert (pooled.shape, tokens.shape, grid) == ((3, 4), (3, 16, 4), (4, 4))
        torch.testing.assert_close(tokens.mean(1), pooled)
        assert encoder.preprocessing.mean == (0.1, 0.2, 0.3)
        assert features(load_vision(spec | {"image_size": 48}), pictures()).grid == (6, 6)
        assert load_vision(spec, twin_seed=0).identity["weights"] != encoder.identity["weights"]
        for change, message in (
            ({"image_size": 52}, "no multiple of the grid"),
            ({"model": "nothing"}, "Unknown model"),
            ({"model": None}, "set model"),
            ({"weights": None}, "set weights"),
        ):
            with pytest.raises(ConfigError, match=message):
                load_vision(spec | change)
    torch.save({"conv.weight": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"conv\.bias"):
        load_vision(spec)
