"""Zero-shot grounding: does the patch most like a finding's name lie in its box?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sagittal_cxr.images import load_grey
from sagittal_cxr.metrics.boxes import contrast_to_noise, inside, pointing
from sagittal_cxr.metrics.summed import Patients, mean_score
from sagittal_cxr.progress import track
from sagittal_cxr.tasks.items import write_frame
from sagittal_cxr.tasks.segmentation import as_measure
from sagittal_cxr.tasks.task import Benchmark, Measure, NotApplicable, Task

if TYPE_CHECKING:
    from sagittal_cxr.nn.image_text import ImageTextModel

OTHER, CENTRE = "another finding's name", "centre of the image"


@dataclass
class Grounding(Task):
    """Compare the similarity of patches and a finding's name with the boxes of that finding.

    Patch tokens go through the model's image projection, which was trained on the pooled row alone:
    for a network whose pooled row is the mean of its tokens the map is an exact share of the
    image's similarity, for a class token it is an extrapolation. Maps are enlarged to the network's
    input (bilinear). All boxes of a finding in an image count as one place.

    Controls: the maps of the other findings' names, which tell whether the name matters; the centre
    of the image; and for pointing, the share of the image that is in the boxes (``chance``).

    Attributes:
        name: In the report.
        template: Text of a finding; ``{}`` is its name in lower case.
        resamples: Of the patients, for intervals.
    """

    name: str = "grounding"
    template: str = "{}"
    resamples: int = 1000
    headline: ClassVar[tuple[str, ...]] = ("pointing game", "CNR")
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
        """Measure every finding with a box in the benchmark's split.

        Raises:
            NotApplicable: If the model knows no texts, or no row has a box.
        """
        import pandas

        if not hasattr(model, "encode_text"):
            raise NotApplicable("the model knows no texts")
        rows = benchmark.rows()
        rows = rows[[len(boxes) > 0 for boxes in rows["boxes"]]]
        if rows.empty:
            raise NotApplicable("no image of the split has a box")
        findings = sorted({box["finding"] for boxes in rows["boxes"] for box in boxes})
        model = model.to(device)
        with torch.no_grad():
            ids, mask = model.tokenize([self.template.format(f.lower()) for f in findings])
            texts = model.encode_text(ids.to(device), mask.to(device))
        items, cropped = [], 0
        for number in track(list(rows.index), "grounding"):
            found = _image(
                model, benchmark, int(number), rows.loc[number, "boxes"], findings, texts
            )
            cropped += sum(one is None for one in found)
            items += [one for one in found if one is not None]
        if not items:
            raise NotApplicable("no box is within the network's input")
        table = pandas.DataFrame(items)
        write_frame(folder, table)
        patients = rows.loc[table["row"], "patient"].to_numpy()
        return self._measures(table, patients, cropped, seed)

    def _measures(
        self, table: Any, patients: NDArray[Any], cropped: int, seed: int
    ) -> list[Measure]:
        measures = []
        general = {"images and findings": len(table), "boxes outside the input": cropped}
        sampled = Patients(patients, self.resamples, seed)
        for metric in self.headline:
            own = mean_score(metric, table[metric])
            detail = general | ({"chance": float(table["area"].mean())} if "game" in metric else {})
            measures.append(as_measure(metric, sampled.estimate(own), detail))
            for control in (OTHER, CENTRE):
                if f"{metric}, {control}" in table and table[f"{metric}, {control}"].notna().any():
                    other = mean_score(control, table[f"{metric}, {control}"])
                    above = sampled.difference(own, other)
                    measures.append(
                        as_measure(f"{metric}, {control}", sampled.estimate(other), general)
                    )
                    measures.append(as_measure(f"{metric} above {control}", above, general))
        for finding, part in table.groupby("finding", sort=True):
            mine = Patients(patients[table["finding"] == finding], self.resamples, seed)
            for metric in self.headline:
                detail = {"images": len(part), "area": float(part["area"].mean())}
                estimate = mine.estimate(mean_score(metric, part[metric]))
                measures.append(as_measure(metric, estimate, detail, str(finding)))
        return measures


@torch.no_grad()
def similarity_maps(model: ImageTextModel, pixels: Tensor, texts: Tensor) -> Tensor:
    """Cosine of every place of images with texts.

    Args:
        model: In evaluation mode.
        pixels: (B, 3, H, W), preprocessed.
        texts: (T, dim) unit rows.

    Returns:
        (B, T, H, W) float32.
    """
    tokens, grid = model.image_tokens(pixels)
    rows = functional.normalize(model.image_projection(tokens), dim=2)
    maps = (rows @ texts.T).transpose(1, 2).unflatten(2, grid)
    return functional.interpolate(maps.float(), pixels.shape[2:], mode="bilinear")


def _image(
    model: ImageTextModel,
    benchmark: Benchmark,
    number: int,
    boxes: list[dict[str, Any]],
    findings: list[str],
    texts: Tensor,
) -> list[dict[str, Any] | None]:
    """One entry for each finding with boxes in an image; None: the boxes are cropped away."""
    image = load_grey(benchmark.image_path(number))
    fitted = torch.from_numpy(model.preprocessing.fit(image))[None].to(texts.device)
    maps = similarity_maps(model, model.preprocessing.normalise(fitted), texts)[0].cpu().numpy()
    height, width = model.preprocessing.size
    middle = np.zeros((height, width), np.float32)
    middle[height // 2, width // 2] = 1
    found: list[dict[str, Any] | None] = []
    for finding in sorted({box["finding"] for box in boxes}):
        places = [
            [box[key] for key in ("x", "y", "width", "height")]
            for box in boxes
            if box["finding"] == finding
        ]
        mask = model.preprocessing.fit_labels(inside(places, *image.shape)) > 0
        if not mask.any():
            found.append(None)
            continue
        own = findings.index(finding)
        others = [values for place, values in enumerate(maps) if place != own]
        found.append(
            {
                "row": number,
                "finding": finding,
                "area": float(mask.mean()),
                "pointing game": pointing(maps[own], mask),
                "CNR": contrast_to_noise(maps[own], mask),
                f"pointing game, {OTHER}": _mean([pointing(m, mask) for m in others]),
                f"CNR, {OTHER}": _mean([contrast_to_noise(m, mask) for m in others]),
                f"pointing game, {CENTRE}": pointing(middle, mask),
            }
        )
    return found


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
