"""Report generation: a language model writes from image tokens, beside what does not look."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagittal_core.encoders.weights import drawn, weights_sha256
from sagittal_core.errors import ConfigError
from sagittal_core.seeds import counter_seed
from sagittal_cxr.metrics.reports import ReportScorer
from sagittal_cxr.metrics.summed import Patients, Score, mean_score
from sagittal_cxr.nn.report_generator import IGNORED, ReportGenerator
from sagittal_cxr.progress import track
from sagittal_cxr.tasks.items import write_frame
from sagittal_cxr.tasks.report_images import ImageRows, image_rows
from sagittal_cxr.tasks.segmentation import as_measure
from sagittal_cxr.tasks.task import NotApplicable, Task
from sagittal_cxr.tasks.training import Plan, digest, fit

if TYPE_CHECKING:
    import pandas

    from sagittal_cxr.nn.image_text import ImageTextModel
    from sagittal_cxr.tasks.task import Benchmark, Measure

OWN = "generated"
CONTROLS = ("most frequent report", "nearest report", "shuffled images")
_WRITTEN_AT_ONCE = 16


@dataclass
class ReportGeneration(Task):
    """Train a projector from image tokens to a language model, and compare what it writes.

    Beside the generated reports stand three controls on the same references: the most frequent
    report of the training images, the report of the nearest training image, and what the same
    generator writes from another patient's image. A generator that is not above the last has not
    looked at the image.

    Attributes:
        name: In the report.
        language: Causal language model: a folder of safetensors with its tokenizer, a GGUF file, or
            the name of sample data.
        trained: projector (the language model is frozen), lora or full.
        rank: Of LoRA.
        prompt: Between the image and the report.
        side: Image tokens are averaged over a grid of side x side.
        max_tokens: Of a report, its end included; longer references are cut for training only.
        lr: Learning rate of the projector.
        language_lr: Of the language model, where it is trained.
        epochs: Passes over the training reports.
        batch: Reports a step.
        train_rows: At most, thinned at random; None: all.
        test_rows: As ``train_rows``.
        references: "report": only images with a report of their own; "any": pseudo-reports made of
            labels as well, which say what the labels say and no more.
        sentence_encoder: For likeness by embedding; None: without.
        resamples: Of the patients, for intervals.
    """

    name: str = "report generation"
    language: str = "smollm2"
    trained: Literal["projector", "lora", "full"] = "projector"
    rank: int = 8
    prompt: str = "\nFindings and impression of this chest radiograph: "
    side: int = 4
    max_tokens: int = 64
    lr: float = 1e-3
    language_lr: float = 2e-4
    epochs: int = 3
    batch: int = 8
    train_rows: int | None = None
    test_rows: int | None = None
    references: Literal["report", "any"] = "report"
    sentence_encoder: str | None = "minilm"
    resamples: int = 1000
    headline: ClassVar[tuple[str, ...]] = ("rule_labels_f1 micro-14", "BLEU-4", "ROUGE-L")
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
        """Train on the rows of train, write for those of the benchmark's split, and score.

        Raises:
            NotApplicable: If there are no references to train or test on, or a patient is in both.
            DataError: If the language model or an image cannot be used.
        """
        if benchmark.split == "train":
            raise NotApplicable("reports are generated for val or test, not for train")
        train = self._rows(benchmark, "train", self.train_rows, seed)
        test = self._rows(benchmark, benchmark.split, self.test_rows, seed)
        if shared := set(train["patient"]) & set(test["patient"]):
            raise NotApplicable(f"{len(shared)} patients are in train and in {benchmark.split}")
        images = {
            part: image_rows(
                model, benchmark, rows.index.to_numpy(), self.side, folder.parent, device
            )
            for part, rows in (("train", train), ("test", test))
        }
        identity = digest(
            asdict(self)
            | {"benchmark": benchmark.described(), "seed": seed, "version": self.version}
            | {"weights": weights_sha256(model)}
        )
        writer = _Writer(self, images["train"].width, folder, identity, device, seed)
        written = writer.written(images, list(train["text"]), test["patient"].to_numpy())
        written |= {
            CONTROLS[0]: [_most_frequent(train["text"])] * len(test),
            CONTROLS[1]: _nearest(images["train"], images["test"], list(train["text"])),
        }
        return self._measures(written, test, writer.counts, folder, seed)

    def _rows(
        self, benchmark: Benchmark, split: Any, most: int | None, seed: int
    ) -> pandas.DataFrame:
        """Rows with a reference, at most so many."""
        rows = benchmark.rows(split)
        kinds = ["report"] if self.references == "report" else ["report", "template"]
        kept = rows[rows["text_source"].isin(kinds) & (rows["text"].str.strip() != "")]
        if kept.empty:
            raise NotApplicable(
                f"none of {len(rows)} {split} rows has a report of its own"
                + ("; references: any takes pseudo-reports" if self.references == "report" else "")
            )
        if most is None or len(kept) <= most:
            return kept
        rng = np.random.default_rng(counter_seed(seed, f"rows of {split}"))
        return kept.iloc[np.sort(rng.choice(len(kept), most, replace=False))]

    def _measures(
        self,
        written: dict[str, list[str]],
        test: pandas.DataFrame,
        counts: dict[str, int],
        folder: Path,
        seed: int,
    ) -> list[Measure]:
        from sagittal_cxr.reports.labeler import Labeler

        encoder = None
        if self.sentence_encoder is not None:
            from sagittal_core.encoders import SentenceEncoder

            encoder = SentenceEncoder(self.sentence_encoder)
        name = Path(self.sentence_encoder or "").name
        scorer = ReportScorer(list(test["text"]), Labeler(), encoder, name)
        patients = Patients(test["patient"], self.resamples, seed)
        sources = Counter(test["text_source"])
        general = {"reports": len(test), "references": dict(sources), **counts}
        scored = {arm: scorer.score(texts) for arm, texts in written.items()}
        scored[OWN].append(_distinct(written[OWN]))
        _write_items(test, written, scored, folder)
        measures = []
        for number, own in enumerate(scored[OWN]):
            detail = general | ({"note": own.note} if own.note else {})
            measures.append(as_measure(own.name, patients.estimate(own), detail))
            for arm in CONTROLS:
                if number < len(scored[arm]):
                    other = scored[arm][number]
                    both = patients.estimate(other), patients.difference(own, other)
                    for title, found in zip((f"{own.name}, {arm}", f"{own.name} above {arm}"),
                                            both, strict=True):  # fmt: skip
                        measures.append(as_measure(title, found, general))
        for score in scorer.findings(written[OWN]):
            one = patients.estimate(score)
            if np.isfinite(one.value):
                positives = int(score.parts[:, [0, 2]].sum())
                detail = {"positives": positives}
                measures.append(as_measure("rule_labels_f1", one, detail, score.name))
        return measures


def _distinct(texts: Sequence[str]) -> Score:
    """1 for a report that no earlier one equals: the mean is the share of distinct reports."""
    seen: set[str] = set()
    values = []
    for text in texts:
        values.append(float(text not in seen))
        seen.add(text)
    return mean_score("distinct reports", values, "share; low where one report is given for all")


def _most_frequent(texts: Sequence[str]) -> str:
    """The commonest text; of several the first in the alphabet."""
    counted = Counter(text.strip() for text in texts)
    return min(counted, key=lambda text: (-counted[text], text))


def _nearest(train: ImageRows, test: ImageRows, texts: Sequence[str]) -> list[str]:
    """The text of the training image whose embedding is nearest."""
    return [texts[int(i)] for i in (test.embeddings @ train.embeddings.T).argmax(1)]


def others(patients: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """For each image the number of one of another patient, each taken once where that is possible.

    Raises:
        NotApplicable: If there is one patient only.
    """
    if len(np.unique(patients)) < 2:
        raise NotApplicable("shuffled images need two patients")
    rng = np.random.default_rng(counter_seed(seed, "shuffled images"))
    # Patients in random order, one after the other: half a turn on stands another patient's image
    # unless one patient has half of all.
    order = np.concatenate(
        [np.flatnonzero(patients == p) for p in rng.permutation(np.unique(patients))]
    )
    taken = np.empty(len(patients), np.int64)
    taken[order] = np.roll(order, len(order) // 2)
    for i in np.flatnonzero(patients[taken] == patients):
        taken[i] = rng.choice(np.flatnonzero(patients != patients[i]))
    return taken


class _Writer:
    """Trains a generator and keeps what it wrote."""

    def __init__(
        self,
        task: ReportGeneration,
        width: int,
        folder: Path,
        identity: str,
        device: str,
        seed: int,
    ) -> None:
        self.task, self.folder, self.identity, self.device = task, folder, identity, device
        self.width, self.seed = width, seed
        self.counts: dict[str, int] = {}

    def written(
        self, images: dict[str, ImageRows], texts: list[str], patients: NDArray[Any]
    ) -> dict[str, list[str]]:
        """Reports for the test images, and for those of other patients in their place."""
        import pandas

        file = self.folder / f"written-{self.identity}.parquet"
        if not file.is_file():
            generator, tokenizer, cut = self._trained(images["train"], texts)
            shuffled = others(patients, self.seed)
            own = self._write(generator, tokenizer, images["test"].tokens)
            mixed = [own[int(i)] for i in shuffled]  # greedy: the same image, the same report
            table = pandas.DataFrame({OWN: own, CONTROLS[2]: mixed})
            table["cut references"] = cut
            temporary = file.with_name(f".{file.name}.{os.getpid()}")
            table.to_parquet(temporary, index=False)
            temporary.replace(file)
        table = pandas.read_parquet(file)
        self.counts = {
            "training reports": len(texts),
            "training reports cut": int(table["cut references"].iloc[0]),
            "empty reports": int((table[OWN].str.strip() == "").sum()),
        }
        return {arm: list(table[arm]) for arm in (OWN, CONTROLS[2])}

    def _trained(self, images: ImageRows, texts: list[str]) -> tuple[ReportGenerator, Any, int]:
        from sagittal_core.llm.weights import read_model

        task = self.task
        language, tokenizer = read_model(task.language, device=self.device, dtype="float32")
        if tokenizer.eos_token_id is None:
            raise ConfigError("report generation: the tokenizer has no end-of-text token")
        generator = drawn(
            lambda: ReportGenerator(language, self.width, task.trained, task.rank),
            counter_seed(self.seed, "report generator"),
        ).to(self.device)
        # Dropout of the language model stays off: it is small data that is short here, not rules.
        generator.eval()
        labels, cut = encode_reports(tokenizer, texts, task.max_tokens)
        prompt = self._prompt(tokenizer)

        def loss(chosen: NDArray[np.int64]) -> Tensor:
            rows = labels[torch.from_numpy(chosen)]
            longest = int((rows != IGNORED).sum(1).max())
            tokens = images.tokens[torch.from_numpy(chosen)].to(self.device)
            found = generator.loss(tokens, prompt, rows[:, :longest].to(self.device))
            return found

        rates = {"projector": task.lr, "language": task.language_lr}
        fit(
            generator, loss, rates,
            rows=len(texts), plan=Plan(task.epochs, task.batch), seed=self.seed,
            checkpoint=self.folder / f"generator-{self.identity}.pt",
            title="report generator",
        )  # fmt: skip
        return generator, tokenizer, cut

    def _write(self, generator: ReportGenerator, tokenizer: Any, tokens: Tensor) -> list[str]:
        prompt, reports = self._prompt(tokenizer), []
        for part in track(tokens.split(_WRITTEN_AT_ONCE), "writing reports"):
            rows = generator.generate(
                part.to(self.device), prompt, self.task.max_tokens, [tokenizer.eos_token_id]
            )
            reports += [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
        return reports

    def _prompt(self, tokenizer: Any) -> Tensor:
        ids = tokenizer(self.task.prompt, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.long, device=self.device)


def encode_reports(tokenizer: Any, texts: Sequence[str], longest: int) -> tuple[Tensor, int]:
    """Ids of reports with their end, padded with -100, and how many were cut.

    Args:
        tokenizer: Of the language model.
        texts: N of them.
        longest: Ids of a row at most; a report that was cut has no end.

    Returns:
        (N, T) int64, T <= longest.
    """
    rows = [
        [*tokenizer(text.strip(), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for text in texts
    ]
    cut = sum(len(row) > longest for row in rows)
    width = min(longest, max(map(len, rows)))
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
    for label, row in zip(labels, rows, strict=True):
        label[: len(row)] = torch.tensor(row[:width])
    return labels, cut


def _write_items(
    test: pandas.DataFrame,
    written: dict[str, list[str]],
    scored: dict[str, list[Score]],
    folder: Path,
) -> None:
    """items.parquet: row number, reports and scores of each test image."""
    import pandas

    columns: dict[str, Any] = {"row": test.index.to_numpy(), **written}
    for arm, scores in scored.items():
        columns |= {f"{score.name}, {arm}": score.each for score in scores}
    write_frame(folder, pandas.DataFrame(columns))
