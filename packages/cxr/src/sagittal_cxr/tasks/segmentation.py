"""Segmentation: a decoder on the encoder's feature maps, beside a random encoder's."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sagittal_core.encoders.preprocessing import Preprocessing
from sagittal_core.encoders.weights import drawn, weights_sha256
from sagittal_core.errors import ConfigError
from sagittal_core.seeds import counter_seed
from sagittal_cxr.metrics.masks import dice_and_iou
from sagittal_cxr.metrics.summed import Estimate, Patients, mean_score
from sagittal_cxr.nn.feature_maps import feature_maps
from sagittal_cxr.nn.segmentation import SegmentationDecoder, Segmenter, segmentation_loss
from sagittal_cxr.progress import track
from sagittal_cxr.tasks.items import write_frame
from sagittal_cxr.tasks.mask_pairs import Fold, Pair, divide, load_pair, mask_pairs
from sagittal_cxr.tasks.task import Measure, NotApplicable, Task
from sagittal_cxr.tasks.training import Plan, digest, fit

if TYPE_CHECKING:
    import pandas

    from sagittal_cxr.nn.image_text import ImageTextModel
    from sagittal_cxr.tasks.task import Benchmark

# Feature maps of all images are kept while they take less; else they are computed at every step.
_KEPT_BYTES = 2 << 30
_ENCODED_AT_ONCE = 16

TWIN, MEAN = "random twin", "mean mask"


@dataclass
class Segmentation(Task):
    """Train a decoder on a frozen encoder, or both, and measure Dice and IoU of held-out images.

    Two controls show what the encoder's weights are worth: the same training on the encoder's
    random twin, and, for every image, the mean mask of the training images. Figures are at the size
    of the network's input (a crop included), by a threshold of 0.5.

    Attributes:
        name: In the report.
        folds: Of patients, drawn at random over all splits, so that every mask is tested once;
            None: trained on the index's train, tested on the benchmark's split.
        finding: Images without a mask in which this finding is labelled absent count as ones with
            an empty mask (SIIM: Pneumothorax); None: they are left out.
        levels: Feature maps at most (the last blocks of a vision transformer).
        width: Channels of the decoder's deepest step.
        frozen: Train the decoder alone.
        lr: Learning rate of the decoder.
        encoder_lr: Of the encoder, where it is not frozen.
        epochs: Passes over the training pairs.
        batch: Pairs a step.
        twin: Whether to train on the random twin as well.
        resamples: Of the patients, for intervals.
    """

    name: str = "segmentation"
    folds: int | None = None
    finding: str | None = None
    levels: int = 5
    width: int = 64
    frozen: bool = True
    lr: float = 2e-3
    encoder_lr: float = 2e-5
    epochs: int = 30
    batch: int = 8
    twin: bool = True
    resamples: int = 1000
    headline: ClassVar[tuple[str, ...]] = ("Dice", "IoU")
    version: ClassVar[int] = 1

    def run(
        self,
        model: ImageTextModel,
        benchmark: Benchmark,
        folder: Path,
        *,
        device: str,
        seed: int,
    ) -> list[Measure]:
        """Train and test, fold by fold; a fold that is on disk is not done again.

        Raises:
            NotApplicable: If no image has a mask, or none is left to train or test on.
            ConfigError: If there are fewer patients than folds.
            DataError: If a file cannot be used.
        """
        if not hasattr(model, "vision"):
            raise NotApplicable("the model's image encoder is not at hand")
        pairs = mask_pairs(benchmark, self.finding)
        division = divide(pairs, self.folds, benchmark.split, seed)
        loaded = _Loaded(pairs, model.preprocessing)
        arms = {"": model.vision}
        if self.twin:
            from sagittal_cxr.nn.vision import ImageEncoder

            arms[TWIN] = ImageEncoder(model.vision.spec, twin_seed=seed).eval()
        tables = {}
        for arm, encoder in arms.items():
            identity = digest(
                asdict(self)
                | {"benchmark": benchmark.described(), "seed": seed, "version": self.version}
                | {"weights": weights_sha256(encoder)}
            )
            study = _Study(self, encoder, loaded, device, seed)
            parts = [
                study.measured(number, fold, folder, f"{arm.replace(' ', '-')}{identity}")
                for number, fold in enumerate(division)
            ]
            tables[arm] = _joined(parts)
        items = _items(tables)
        patients = np.array([pairs[place].patient for place in items["place"]])
        rows = np.array([pairs[place].row for place in items["place"]], np.int64)
        write_frame(folder, items.drop(columns="place").assign(row=rows))
        return self._measures(items, patients, len(division), loaded.size, seed)

    def _measures(
        self,
        items: pandas.DataFrame,
        patients: NDArray[Any],
        count: int,
        size: tuple[int, int],
        seed: int,
    ) -> list[Measure]:
        resampled = Patients(patients, self.resamples, seed)
        detail = {
            "images": len(items),
            "empty masks": int(items["empty"].sum()),
            "folds": count,
            "pixels": f"{size[0]} x {size[1]}",
            "encoder": "frozen" if self.frozen else "trained",
        }
        measures = []
        for metric in self.headline:
            of = {arm: mean_score(arm, items[f"{metric}, {arm}"]) for arm in (TWIN, MEAN)
                  if f"{metric}, {arm}" in items}  # fmt: skip
            own = mean_score(metric, items[metric])
            found = {metric: resampled.estimate(own)}
            found |= {f"{metric}, {arm}": resampled.estimate(score) for arm, score in of.items()}
            found |= {
                f"{metric} above {arm}": resampled.difference(own, score)
                for arm, score in of.items()
            }
            measures += [as_measure(name, one, detail) for name, one in found.items()]
        return measures


def as_measure(
    name: str, found: Estimate, detail: dict[str, Any], label: str | None = None
) -> Measure:
    """An estimate as a task hands it back."""
    draws = found.draws if len(found.draws) else None
    return Measure(name, label, found.value, found.low, found.high, found.patients, detail, draws)


class _Loaded:
    """Images and masks at the size of the network's input, read when first needed."""

    def __init__(self, pairs: Sequence[Pair], preprocessing: Preprocessing) -> None:
        self.pairs, self.preprocessing = pairs, preprocessing
        self.size = preprocessing.size
        self._arrays: tuple[NDArray[np.uint8], NDArray[np.bool_]] | None = None

    @property
    def images(self) -> NDArray[np.uint8]:
        """(N, h, w)."""
        return self._read()[0]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(N, h, w)."""
        return self._read()[1]

    def _read(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        if self._arrays is None:
            shape = (len(self.pairs), *self.size)
            self._arrays = np.empty(shape, np.uint8), np.empty(shape, np.bool_)
            for number, pair in enumerate(track(self.pairs, "reading masks")):
                image, mask = load_pair(pair, self.preprocessing)
                self._arrays[0][number], self._arrays[1][number] = image, mask
        return self._arrays


class _Study:
    """The folds of one encoder."""

    def __init__(
        self, task: Segmentation, encoder: nn.Module, loaded: _Loaded, device: str, seed: int
    ) -> None:
        self.task, self.loaded, self.device, self.seed = task, loaded, device, seed
        self.maps = feature_maps(encoder, task.levels).to(device)
        self._kept: list[Tensor] | None = None

    def measured(self, number: int, fold: Fold, folder: Path, identity: str) -> pandas.DataFrame:
        """One row for each pair that was tested: place, empty, Dice, IoU and those of the mean."""
        import pandas

        file = folder / f"fold-{number}-{identity}.parquet"
        if file.is_file():
            return pandas.read_parquet(file)
        checkpoint = file.with_suffix(".pt")
        predict = self._trained(number, fold.train, checkpoint)
        truth = self.loaded.masks[fold.test]
        mean = self.loaded.masks[fold.train].mean(0) > 0.5
        columns: dict[str, Any] = {"place": fold.test, "empty": ~truth.any((1, 2))}
        for name, found in (("", predict(fold.test)), (MEAN, np.broadcast_to(mean, truth.shape))):
            for metric, values in zip(("Dice", "IoU"), dice_and_iou(found, truth), strict=True):
                columns[f"{metric}, {name}" if name else metric] = values
        table = pandas.DataFrame(columns)
        _write(table, file)
        checkpoint.unlink(missing_ok=True)
        return table

    def _trained(
        self, number: int, train: NDArray, checkpoint: Path
    ) -> Callable[[NDArray], NDArray[np.bool_]]:
        """Train on some pairs; returns what predicts the masks of others."""
        task, seed = self.task, counter_seed(self.seed, "segmentation", number)
        with torch.no_grad():
            channels = [one.shape[1] for one in self._features(train[:1])]
        decoder = drawn(lambda: SegmentationDecoder(channels, task.width), seed).to(self.device)
        module: nn.Module = decoder
        if not task.frozen:
            module = Segmenter(copy.deepcopy(self.maps), decoder)
            if not any(p.requires_grad for p in module.maps.parameters()):
                raise ConfigError("segmentation: frozen is false, but the encoder's weights are")
        module.train()

        def logits(places: NDArray) -> Tensor:
            if task.frozen:
                found: Tensor = decoder(self._features(places), self.loaded.size)
            else:
                found = module(self._pixels(places))
            return found

        def loss(chosen: NDArray[np.int64]) -> Tensor:
            places = train[chosen]
            masks = torch.from_numpy(self.loaded.masks[places])[:, None].to(self.device)
            return segmentation_loss(logits(places), masks)

        rates = {"": task.lr} if task.frozen else {"decoder": task.lr, "maps": task.encoder_lr}
        fit(
            module, loss, rates,
            rows=len(train), plan=Plan(task.epochs, task.batch), checkpoint=checkpoint, seed=seed,
            title=f"segmentation, fold {number}",
        )  # fmt: skip

        @torch.no_grad()
        def predict(places: NDArray) -> NDArray[np.bool_]:
            module.eval()
            parts = np.array_split(places, max(1, -(-len(places) // _ENCODED_AT_ONCE)))
            return np.concatenate([(logits(p)[:, 0] > 0).cpu().numpy() for p in parts])

        return predict

    def _features(self, places: NDArray) -> list[Tensor]:
        """Maps of pairs by a frozen encoder, from memory where there is room for all."""
        if not self.task.frozen:
            return self._encoded(places)
        if self._kept is None:
            one = sum(m.numel() * m.element_size() for m in self._encoded(places[:1]))
            count = len(self.loaded.pairs)
            if one * count > _KEPT_BYTES:
                return self._encoded(places)
            parts = np.array_split(np.arange(count), max(1, -(-count // _ENCODED_AT_ONCE)))
            encoded = [
                [m.cpu() for m in self._encoded(part)] for part in track(parts, "encoding images")
            ]
            self._kept = [torch.cat(level) for level in zip(*encoded, strict=True)]
        return [level[torch.from_numpy(places)].to(self.device) for level in self._kept]

    @torch.no_grad()
    def _encoded(self, places: NDArray) -> list[Tensor]:
        found: list[Tensor] = self.maps(self._pixels(places))
        return found

    def _pixels(self, places: NDArray) -> Tensor:
        images = torch.from_numpy(self.loaded.images[places]).to(self.device)
        return self.loaded.preprocessing.normalise(images)


def _joined(parts: Sequence[pandas.DataFrame]) -> pandas.DataFrame:
    import pandas

    return pandas.concat(list(parts)).sort_values("place", ignore_index=True)


def _items(tables: dict[str, pandas.DataFrame]) -> pandas.DataFrame:
    """One row a pair, the twin's figures beside the encoder's."""
    items = tables[""].copy()
    if TWIN in tables:
        for metric in Segmentation.headline:
            items[f"{metric}, {TWIN}"] = tables[TWIN][metric]
    return items


def _write(table: pandas.DataFrame, file: Path) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    table.to_parquet(temporary, index=False)
    temporary.replace(file)
