"""``sagittal-genai search``: images by words, through the features that the words name."""

# ruff: noqa: T201 - a verb whose product is what it prints

from __future__ import annotations

from pathlib import Path

import numpy as np

from sagittal_core.errors import ConfigError
from sagittal_core.llm import CachedModel, LanguageModel, ReplyCache
from sagittal_genai.concepts.explained import Explained, image_index, open_data
from sagittal_genai.concepts.features import Rows
from sagittal_genai.concepts.gallery import Page, write_sheet
from sagittal_genai.concepts.retrieval import Images, Matcher
from sagittal_genai.concepts.table import ConceptTable
from sagittal_genai.concepts.thumbnails import Pictures


def search(
    query: str,
    explained: Path = Path("outputs/explain"),
    out: Path | None = None,
    match: str = "words",
    features: int = 3,
    results: int = 10,
    encoder: str = "minilm",
    llm: LanguageModel | None = None,
    thumbnail: int = 320,
) -> int:
    """Find held-out images by words, through the named features that fit them.

    Prints the features and the images, and writes them to a page. Exit status 1: nothing matches.

    Args:
        query: what to look for.
        explained: folder of a finished `explain`.
        out: the page; default: search.html in that folder.
        match: how words find features: words, sentences or llm.
        features: features a query.
        results: images, one of a subject where possible.
        encoder: sentence encoder of `match: sentences`: a folder or the name of sample data.
        llm: language model of `match: llm`.
        thumbnail: width of a picture on the page.

    Raises:
        ConfigError: settings out of range.
        DataError: the folder, the store, the codes or a picture cannot be used.
    """
    if not query.strip() or features < 1 or results < 1:
        raise ConfigError("search: expected a query, features >= 1 and results >= 1")
    if match not in ("words", "sentences", "llm") or (match == "llm" and llm is None):
        raise ConfigError("search: match must be words, sentences, or llm with an `llm`")
    known = Explained.read(explained)
    names = known.searchable()
    asked = None if llm is None else CachedModel(llm, ReplyCache(explained / "replies"))
    matcher = Matcher(
        {n: str(f.name) for n, f in names.items()},
        match,
        features,
        encoder,
        asked,
        {n: f.words for n, f in names.items()},
    )
    try:
        found = matcher.match(query)
    finally:
        if asked is not None:
            asked.close()
    if not found.features:
        print(f"{found.outcome.replace('_', ' ')}: none of {len(names)} named features fits")
        return 1
    print(f"features of {len(names)} with a name that fit:")
    scores = found.scores or (None,) * len(found.features)
    for number, score in zip(found.features, scores, strict=True):
        said = "" if score is None else f"  similarity {score:.3f}"
        rank = names[number].rank
        said += "  (not judged)" if rank is None else f"  (judge: rank {rank} of 5)"
        print(f"  {number:>6}  {names[number].name}{said}")
    matrix, index = open_data(Path(known.store), Path(known.codes))
    rows = Rows(matrix, index, known.held_out, known.store)
    table = ConceptTable(image_index(index), known.columns, known.store)
    images = Images(matrix, rows.image, rows.held_out, rows.subject)
    means = [names[number].mean for number in found.features]
    similar = images.scores(found.features, means)
    best = images.best(similar, results)
    active, at = images.activations(found.features)
    sheet = []
    print(f"best {len(best)} of {len(similar)} images of the {known.held_out} split:")
    for place, i in enumerate(best, 1):
        said = table.describe(int(images.first[i]))
        print(f"  {place:>2}  {similar[i]:.3f}  {index['image'][images.first[i]]}  {said}")
        strongest = int(at[i, int(np.argmax(active[i]))])
        sheet.append((strongest, f"similarity {similar[i]:.3f}; {said}"))
    file = explained / "search.html" if out is None else out
    page = Page(
        query.strip(),
        f"Images of the {known.held_out} split in which the features that fit these words are as"
        " active, relative to each other, as on average where they are active in training.",
        [(f"feature {n}", str(names[n].name)) for n in found.features],
    )
    pictures = None if known.slices is None else Pictures(Path(known.slices), index)
    size = write_sheet(file, page, sheet, pictures, thumbnail)
    print(f"{file} ({size / 1e6:.1f} MB)")
    return 0
