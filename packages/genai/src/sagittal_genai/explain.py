"""``sagittal-genai explain``: names for features, a judge of the names, and a page to read them."""

# ruff: noqa: T201 - a verb that tells the user what it is doing

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from sagittal_core.errors import ConfigError
from sagittal_core.llm import CachedModel, LanguageModel, ReplyCache
from sagittal_core.privacy import command_line, without_paths
from sagittal_core.results import Table, write_results
from sagittal_core.seeds import counter_seed
from sagittal_genai.concepts.explained import Explained, identity, image_index, open_data
from sagittal_genai.concepts.features import Feature, Rows, Unit, choose
from sagittal_genai.concepts.findings import Findings, said, write_report
from sagittal_genai.concepts.gallery import write_gallery
from sagittal_genai.concepts.journal import Journal, begin
from sagittal_genai.concepts.judge import Judge, judgement
from sagittal_genai.concepts.names import (
    Evidence,
    ask_name,
    at_most,
    choose_name,
    naming_request,
    rule_name,
    shared_concepts,
)
from sagittal_genai.concepts.precision import search_test
from sagittal_genai.concepts.table import ConceptTable
from sagittal_genai.concepts.thumbnails import Pictures

_GIVE_UP = 5  # answers in a row that did not arrive
_CHOICES = "the concepts in their images' metadata"
_BACKGROUND = 100  # held-out images that stand for all of them


def explain(
    store: Path = Path("outputs/embeddings"),
    codes: Path = Path("outputs/codes"),
    out: Path = Path("outputs/explain"),
    slices: Path | None = None,
    autoencoder: Path | None = None,
    columns: list[str] | None = None,
    features: int = 50,
    candidates: int = 20,
    shown: int = 5,
    min_subjects: int = 10,
    max_density: float = 0.5,
    unit: Unit = "subject",
    rule_share: float = 0.8,
    rule_lift: float = 1.5,
    per_name: int | None = None,
    llm: LanguageModel | None = None,
    naming: Literal["write", "choose"] = "write",
    judge: Judge | None = None,
    held_out: str = "test",
    judged_images: int = 5,
    query_columns: list[str] | None = None,
    match: str = "words",
    encoder: str = "minilm",
    k: int = 10,
    twin: Path | None = None,
    thumbnail: int = 144,
    gallery_mb: float = 20.0,
    seed: int = 0,
    fresh: bool = False,
) -> None:
    """Name features by what excites them, judge the names on held-out rows, write a gallery.

    Writes gallery.html, report.html, results.json, and explained.json for `search`. Names and
    judgements are kept one by one: the same command goes on after it was killed.

    Args:
        store: embedding store; its index needs image, subject and split.
        codes: sparse codes of the store; made if `autoencoder` is given and they are not complete.
        out: folder of the results.
        slices: slice folder that `image` is relative to; without it there are no pictures.
        autoencoder: run folder (or its prefix) of the autoencoder.
        columns: metadata columns that describe rows; default: those of modality, orientation, view,
            study_type, sex, age, organs and findings that exist.
        features: how many to explain, by monosemanticity.
        candidates: training images of a feature to look at, one of a subject where possible.
        shown: of those, the ones that differ most, to name it by.
        min_subjects: training subjects a feature must be active in.
        max_density: share of training rows above which a feature is left out.
        unit: what images are taken of in turn, and counted by: subject, or image where subjects
            are too few for that; names are then worth what the judge says of other subjects.
        rule_share: share of the top rows that must show a concept for the rule to name it.
        rule_lift: how many times as common as among all training rows it must be.
        per_name: features at most that the rule gives one name, so that one concept does not fill
            the gallery; default: no limit.
        llm: names features from metadata, and from images if it sees them; default: the rule does.
        naming: whether the llm writes a phrase, or chooses the likeliest of the concepts in the
            metadata of the images shown, for small models on disk.
        judge: ranks a feature's name among four others by held-out images; default: no judgement.
        held_out: split for the judge and the search: test or val.
        judged_images: held-out images that the judge sees, and least number for a judgement to be
            made is 3.
        query_columns: columns whose labels the search is tested with; default: organs, findings,
            orientation and view.
        match: how queries find names in that test: words, sentences or llm.
        encoder: sentence encoder of `match: sentences`.
        k: images a query.
        twin: folder of another `explain`, such as that of the randomly initialised encoder, to
            stand beside this one.
        thumbnail: width of a small picture in pixels.
        gallery_mb: limit for all pictures of the gallery together.
        seed: of distractors, shuffles and sampling.
        fresh: start anew where the folder holds results of other settings.

    Raises:
        ConfigError: settings that do not fit together, or a model that stopped answering.
        DataError: a store, codes or pictures that cannot be used.
    """
    start = time.monotonic()
    sees = (llm is not None and llm.sees_images) or (judge is not None and judge.sees_images)
    if sees and slices is None:
        raise ConfigError("explain: the model sees images, so `slices` must say where they are")
    if naming == "choose" and (llm is None or type(llm).choose is LanguageModel.choose):
        raise ConfigError("explain: naming: choose needs an llm that scores given answers")
    if match not in ("words", "sentences", "llm") or (match == "llm" and llm is None):
        raise ConfigError("explain: match must be words, sentences, or llm with an `llm`")
    _check_numbers(
        rule_share,
        rule_lift,
        features=features,
        candidates=candidates,
        shown=shown,
        k=k,
        judged_images=judged_images,
        thumbnail=thumbnail,
    )
    if autoencoder is not None:
        _make_codes(store, codes, autoencoder)
    matrix, index = open_data(store, codes)
    settings = {
        "columns": columns,
        "features": [features, candidates, shown, min_subjects, max_density],
        "rule": [rule_share, rule_lift, per_name],
        "llm": None if llm is None else llm.identity,
        "naming": naming,
        "unit": unit,
        "judge": None if judge is None else judge.identity,
        "held_out": [held_out, judged_images],
        "seed": seed,
    }
    with ExitStack() as stack:
        stack.enter_context(begin(out, identity(store, codes, settings), fresh))
        for asked_later in (llm, judge):
            if asked_later is not None:
                stack.callback(asked_later.close)
        rows = Rows(matrix, index, held_out, store, unit)
        table = ConceptTable(index, columns, store)
        pictures = None if slices is None else Pictures(slices, index)
        options: dict[str, Any] = {
            "count": features,
            "candidates": candidates,
            "shown": shown,
            "judged": judged_images,
            "min_subjects": min_subjects,
            "max_density": max_density,
            "seed": seed,
        }
        facts = _facts(rows, table, (rule_share, rule_lift, per_name), options)
        chosen, evidence = facts.chosen, facts.evidence
        asked = None if llm is None else CachedModel(llm, ReplyCache(out / "replies"))
        named = _name(out, chosen, evidence, table, asked, naming, pictures, seed)
        judged = _judge(out, chosen, evidence, named, table, judge, pictures, rows.held_out, seed)
        found = Findings(
            chosen, facts.left, table, facts.base, evidence, named, judged, facts.by_chance
        )
        explained = Explained(
            store=str(store.resolve()),
            codes=str(codes.resolve()),
            slices=None if slices is None else str(slices.resolve()),
            columns=columns,
            held_out=held_out,
            features=found.summaries(),
        )
        explained.write(out)
        whole = ConceptTable(image_index(index), columns, store)
        test = search_test(
            out, explained, rows, whole, query_columns, match, encoder, asked, k, twin, seed
        )
        by = "the concepts that their most active images share" if llm is None else llm.name
        by += f" as the likeliest of {_CHOICES}" if naming == "choose" else ""
        size = write_gallery(
            out / "gallery.html",
            found.page(by, held_out),
            found.cards(),
            pictures,
            size=thumbnail,
            limit_mb=gallery_mb,
        )
        judged_by = "nobody" if judge is None else judge.name
        about = f"Named by {by}; judged by {judged_by}, on images of the {held_out} split."
        notes = [about, *found.cautions(), *_units(rows, unit), *test.notes, found.left_out()]
        tables = found.tables() | test.tables
        write_report(out / "report.html", tables, notes, without_paths(settings))
        _write_results(out, tables, rows, len(chosen), seed)
    for line in said(tables):
        print(line)
    if asked is not None:
        print(f"replies from the cache: {asked.cache.hit_rate:.0%}")
    print(
        f"explained {len(chosen)} features in {time.monotonic() - start:.0f} s:"
        f" {out / 'gallery.html'} ({size / 1e6:.1f} MB), {out / 'report.html'}",
        flush=True,
    )


def _check_numbers(rule_share: float, rule_lift: float, **at_least_one: int) -> None:
    for name, value in at_least_one.items():
        if value < 1:
            raise ConfigError(f"explain: {name} must be at least 1, found {value}")
    if not 0 < rule_share <= 1 or rule_lift < 1:
        raise ConfigError("explain: rule_share must be in (0, 1] and rule_lift at least 1")


class _Facts(NamedTuple):
    """What the codes and the metadata alone say.

    Attributes:
        chosen: Features to explain, by monosemanticity.
        left: How many were left out, by reason.
        base: Share of the training rows with each concept, (C,).
        evidence: Shared concepts of each feature chosen.
        by_chance: Features that the rule names, and features chosen, if the training rows' codes
            are shuffled.
    """

    chosen: list[Feature]
    left: dict[str, int]
    base: NDArray[np.float64]
    evidence: dict[int, list[Evidence]]
    by_chance: tuple[int, int]


def _facts(
    rows: Rows,
    table: ConceptTable,
    rule: tuple[float, float, int | None],
    options: Mapping[str, Any],
) -> _Facts:
    """Features with their shared concepts; ``rule`` is its share, its lift and ``per_name``."""
    share, lift, per_name = rule
    base, _ = table.shares(rows.train)

    def telling(feature: Feature) -> list[Evidence]:
        return shared_concepts(table, feature, base, share, lift)

    def take() -> Callable[[Feature], bool] | None:
        return None if per_name is None else at_most(per_name, telling)

    chosen, left = choose(rows, table, wanted=take(), **options)
    if not chosen:
        reasons = ", ".join(f"{why}: {n}" for why, n in left.items() if n)
        raise ConfigError(f"explain: no feature can be explained ({reasons})")
    dealt, _ = choose(rows.shuffled(options["seed"]), table, wanted=take(), **options)
    by_chance = sum(bool(telling(f)) for f in dealt), len(dealt)
    return _Facts(chosen, left, base, {f.number: telling(f) for f in chosen}, by_chance)


def _write_results(
    out: Path, tables: Mapping[str, Table], rows: Rows, features: int, seed: int
) -> None:
    write_results(
        out / "results.json",
        command=command_line("sagittal-genai", sys.argv[1:]),
        seeds=[seed],
        n={
            "features": features,
            "training subjects": len(set(rows.subject[rows.train].tolist())),
            "held-out subjects": len(set(rows.subject[rows.held_out].tolist())),
        },
        tables=tables,
    )


def _units(rows: Rows, unit: str) -> list[str]:
    """What names are worth that images of a few subjects gave."""
    if unit == "subject":
        return []
    seen, judged = (len(np.unique(rows.subject[some])) for some in (rows.train, rows.held_out))
    return [
        f"Images count as units here, though those of one subject resemble each other: a name comes"
        f" from as few as one of {seen} training subjects. That it holds for others is shown by the"
        f" judge and the search alone, and for {judged} held-out subjects only."
    ]


def _make_codes(store: Path, codes: Path, autoencoder: Path) -> None:
    from sagittal_core.store import EmbeddingStore
    from sagittal_genai.codes import write_codes
    from sagittal_genai.runs import load_autoencoder

    write_codes(load_autoencoder(autoencoder), EmbeddingStore(store), codes)


def _name(
    out: Path,
    chosen: Sequence[Feature],
    evidence: Mapping[int, Sequence[Evidence]],
    table: ConceptTable,
    model: LanguageModel | None,
    naming: str,
    pictures: Pictures | None,
    seed: int,
) -> dict[int, dict[str, Any]]:
    """A record of each feature: its name, what the rule says, and what became of asking."""
    journal = Journal(out / "names.jsonl")
    missing, silent = [f for f in chosen if f.number not in journal.records], 0
    unanswered = 0
    console = Console(stderr=True)
    for feature in track(missing, "naming", console=console, disable=model is None, transient=True):
        rule = rule_name(evidence[feature.number])
        record: dict[str, Any] = {"feature": feature.number, "rule": rule, "name": rule}
        record |= {"source": "rule", "outcome": "ok" if rule else "unnamed", "detail": ""}
        if model is not None and naming == "choose":
            name = choose_name(model, table, feature)
            record |= {"name": name, "source": model.name, "outcome": "ok" if name else "unnamed"}
        elif model is not None:
            see = pictures.png if model.sees_images and pictures is not None else None
            name, reply = ask_name(model, naming_request(table, feature, see, seed))
            if reply.outcome == "transport":
                silent, unanswered = silent + 1, unanswered + 1
                if silent == _GIVE_UP:
                    break
                continue
            silent = 0
            record |= {"name": name, "source": reply.model}
            record |= {"outcome": reply.outcome, "detail": reply.detail}
        journal.append(record)
    if unanswered:
        raise ConfigError(
            f"explain: {unanswered} answers did not arrive, the last {silent} of them in a row; the"
            " same command asks for what is missing"
        )
    return {f.number: journal.records[f.number] for f in chosen}


def _judge(
    out: Path,
    chosen: Sequence[Feature],
    evidence: Mapping[int, Sequence[Evidence]],
    named: Mapping[int, Mapping[str, Any]],
    table: ConceptTable,
    judge: Judge | None,
    pictures: Pictures | None,
    held_out: NDArray[np.int64],
    seed: int,
) -> dict[int, dict[str, Any]]:
    """A record of each feature: the rank of its name, or why there is none."""
    if judge is None:
        return {}
    journal = Journal(out / "judgements.jsonl")
    names = {number: record["name"] for number, record in named.items() if record["name"]}
    silent = unanswered = 0
    missing = [f for f in chosen if f.number not in journal.records]
    draw = np.random.default_rng(counter_seed(seed, "background")).permutation(held_out)
    background = tuple(table.describe(int(row)) for row in draw[:_BACKGROUND])
    there = table.shares(held_out)[0] > 0
    shown = {concept for concept, some in zip(table.concepts, there, strict=True) if some}
    for feature in track(missing, "judging", console=Console(stderr=True), transient=True):
        seen = feature.held_out.rows.tolist()

        def images(rows: Sequence[int] = seen) -> tuple[bytes, ...]:
            assert pictures is not None
            return tuple(pictures.png(row) for row in rows)

        described = [table.describe(row) for row in seen]
        found = {e.concept for e in evidence[feature.number]}
        if named[feature.number]["source"] == "rule" and found and not found & shown:
            nowhere = "no held-out image shows what it is named by"
            journal.append({"feature": feature.number, "outcome": "left out", "detail": nowhere})
            continue
        record = judgement(judge, feature.number, names, described, images, seed, 3, background)
        if record["outcome"] == "transport":
            silent, unanswered = silent + 1, unanswered + 1
            if silent == _GIVE_UP:
                break
            continue
        silent = 0
        journal.append(record)
    if unanswered:
        raise ConfigError(
            f"explain: {unanswered} verdicts did not arrive, the last {silent} of them in a row;"
            " the same command asks for what is missing"
        )
    return {f.number: journal.records[f.number] for f in chosen}
