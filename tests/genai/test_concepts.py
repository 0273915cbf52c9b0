"""Concepts of rows, top rows, names, judgements and retrieval, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from sagittal_core.errors import DataError
from sagittal_core.llm import ChoiceScores, LanguageModel, Message, Reply, Request
from sagittal_genai.concepts.features import Feature, Rows, Top, choose, diverse, spread
from sagittal_genai.concepts.judge import (
    Case,
    ChoiceJudge,
    Judge,
    RankingJudge,
    SentenceJudge,
    Verdict,
    candidates,
    judgement,
    ranking,
    tally,
)
from sagittal_genai.concepts.names import (
    at_most,
    choose_name,
    phrase,
    rule_name,
    same,
    shared_concepts,
    wilson,
)
from sagittal_genai.concepts.retrieval import (
    Images,
    Matcher,
    evaluate,
    label_queries,
    numbers_in,
)
from sagittal_genai.concepts.table import ConceptTable
from sagittal_genai.concepts.words import TfIdf


def feature(top: Sequence[int], subjects: int | None = None) -> Feature:
    rows = np.array(top)
    found = Top(rows, np.ones(len(rows)), len(rows) if subjects is None else subjects)
    return Feature(0, 0.1, 1.0, 1.0, found.units, 0.5, found, found, found)


def test_missing_lists_are_unknown_and_empty_ones_are_not() -> None:
    index = pandas.DataFrame(
        {
            "organs": [["liver", "kidney_left"], [], None, ["liver"]],
            "orientation": ["axial", "axial", "coronal", None],
            "sex": ["F", "M", None, "F"],
            "age": [39.0, 40.0, np.nan, 80.0],
            "view": ["PA", "", None, "AP"],
        }
    )
    table = ConceptTable(index)
    share = dict(zip(table.concepts, table.shares(np.arange(4))[0], strict=True))
    assert share["organs", "liver"] == pytest.approx(2 / 3)
    assert share["organs", "kidney left"] == pytest.approx(1 / 3)
    assert share["orientation", "axial"] == pytest.approx(2 / 3)
    assert share["view", "PA view"] == 0.5
    assert share["sex", "female"] == pytest.approx(2 / 3)
    ages = {c.text for c in table.concepts if c.column == "age"}
    assert ages == {"age under 40", "age 40 to 59", "age 80 or older"}
    assert table.describe(0) == (
        "orientation: axial; view: PA view; sex: female; age: under 40; organs: kidney left, liver"
    )
    assert table.describe(1).endswith("organs: none")
    assert "organs" not in table.describe(2)


def test_nothing_found_is_a_finding() -> None:
    table = ConceptTable(pandas.DataFrame({"findings": [["Edema"], [], None]}))
    assert [table.describe(i) for i in range(3)] == ["findings: Edema", "findings: no finding", ""]
    assert dict(zip(table.concepts, table.shares(np.arange(3))[0], strict=True)) == {
        ("findings", "Edema"): 0.5,
        ("findings", "no finding"): 0.5,
    }


def test_columns_that_are_missing_are_named() -> None:
    index = pandas.DataFrame({"subject": ["a"], "scan": ["b"]})
    with pytest.raises(DataError, match="describes the rows"):
        ConceptTable(index)
    with pytest.raises(DataError, match="institute"):
        ConceptTable(index, ["institute"])


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=30),
    st.integers(1, 12),
)
def test_every_group_has_its_turn(pairs: list[tuple[int, int]], count: int) -> None:
    values = np.array([float(v) for v, _ in pairs])
    groups = np.array([g for _, g in pairs])
    got = spread(values, groups, count)
    assert len(set(got.tolist())) == len(got) == min(count, len(pairs))
    assert (np.diff(values[got]) <= 0).all()
    taken = np.bincount(groups[got], minlength=5)
    there = np.bincount(groups, minlength=5)
    for group in range(5):
        # Nobody has two more than another who still had some left.
        assert all(taken[group] <= taken[o] + 1 for o in range(5) if taken[o] < there[o])
        of_group = np.sort(values[groups == group])[::-1]
        np.testing.assert_array_equal(of_group[: taken[group]], values[got][groups[got] == group])


def test_diverse_starts_at_the_top_and_leaves_the_copies() -> None:
    codes = csr_matrix(np.array([[3.0, 0, 0], [2.9, 0, 0], [2.8, 0.1, 0], [2, 0, 2], [1, 2, 0]]))
    index = pandas.DataFrame(
        {"image": list("abcdef"), "subject": list("abcdef"), "split": ["train"] * 5 + ["test"]}
    )
    rows = Rows(csr_matrix(np.vstack([codes.toarray(), np.zeros(3)])), index, "test", "index")
    top = Top(np.arange(5), np.array([3, 2.9, 2.8, 2, 1.0]), 5)
    assert diverse(rows, top, 3).rows.tolist() == [0, 3, 4]
    assert diverse(rows, top, 9).rows.tolist() == [0, 1, 2, 3, 4]


def test_a_subject_in_two_splits_is_refused() -> None:
    index = pandas.DataFrame(
        {"image": ["a", "b"], "subject": ["x", "x"], "split": ["train", "test"]}
    )
    with pytest.raises(DataError, match="no subject in two splits"):
        Rows(csr_matrix((2, 3)), index, "test", "index")
    index["subject"] = ["x", None]
    with pytest.raises(DataError, match=r"subject[\s\S]*none in 1 rows"):
        Rows(csr_matrix((2, 3)), index, "test", "index")


def test_images_count_where_subjects_are_too_few() -> None:
    codes = csr_matrix(np.array([9.0, 8, 7, 6, 5, 1, 1])[:, None])
    index = pandas.DataFrame(
        {
            "image": list("aabcdef"),
            "subject": ["x"] * 4 + ["y", "y", "z"],
            "split": ["train"] * 6 + ["test"],
        }
    )
    values, places = np.array([9.0, 8, 7, 6, 5, 1]), np.arange(6)
    of_subjects = Rows(codes, index, "test", "index").top(values, places, 4)
    assert of_subjects.rows.tolist() == [0, 2, 4, 5]
    assert of_subjects.units == 2
    of_images = Rows(codes, index, "test", "index", "image").top(values, places, 4)
    assert of_images.rows.tolist() == [0, 2, 3, 4]
    assert of_images.units == 4


def test_rows_that_nothing_is_known_of_are_not_empty_ones() -> None:
    n = 40
    known = np.arange(n) % 2 == 0
    index = pandas.DataFrame(
        {
            "image": [f"i{i}" for i in range(n)],
            "subject": [f"s{i}" for i in range(n)],
            "split": ["train"] * 30 + ["test"] * 10,
            "organs": [(["liver"] if i % 4 else []) if known[i] else None for i in range(n)],
        }
    )
    codes = np.ones((n, 1))
    codes[~known] = 2  # most active where nothing is known
    codes[::10] = 0
    table, rows = ConceptTable(index), Rows(csr_matrix(codes), index, "test", "index")
    (found,), _ = choose(rows, table, 5, max_density=1.0, candidates=15)
    assert not known[found.top.rows].any()
    assert known[found.held_out.rows].all()
    same = choose(
        Rows(csr_matrix(codes[known]), index[known].reset_index(drop=True), "test", "index"),
        ConceptTable(index[known].reset_index(drop=True)),
        5,
        max_density=1.0,
    )[0][0]
    assert found.monosemanticity == same.monosemanticity
    silent = index.assign(organs=[None] * 30 + [["liver"]] * 10)
    assert choose(rows, ConceptTable(silent), 5)[0] == []


def test_dense_and_rare_features_are_left_out_and_counted() -> None:
    rng = np.random.default_rng(0)
    n = 60
    codes = np.zeros((n, 4))
    codes[:, 0] = rng.random(n) < 0.45  # can be explained
    codes[:, 1] = rng.random(n) < 0.8  # too dense
    codes[:20, 2] = 1  # two subjects only
    index = pandas.DataFrame(
        {
            "image": [f"i{i}" for i in range(n)],
            "subject": [f"s{i // 10 if i < 20 else i}" for i in range(n)],
            "split": ["train"] * 50 + ["test"] * 10,
            "orientation": rng.choice(["axial", "coronal"], n),
        }
    )
    rows = Rows(csr_matrix(codes), index, "test", "index")
    found, left = choose(rows, ConceptTable(index), 5)
    assert [f.number for f in found] == [0]
    assert left["too dense"] == 1
    assert left["never active"] == 1
    assert left["active in fewer than 10 subjects"] + left["fewer than 10 top rows"] == 1
    assert set(found[0].top.rows.tolist()) <= set(range(50))
    assert set(found[0].held_out.rows.tolist()) <= set(range(50, 60))


def table_of(liver: int, axial: int, n: int = 100) -> ConceptTable:
    """The first ``liver`` rows show a liver, the first ``axial`` are axial."""
    organs = [["liver"] if i < liver else [] for i in range(n)]
    planes = ["axial" if i < axial else "coronal" for i in range(n)]
    return ConceptTable(pandas.DataFrame({"organs": organs, "orientation": planes}))


def evidence(table: ConceptTable, top: Sequence[int], **options: float) -> list[str]:
    base, _ = table.shares(np.arange(len(table)))
    subjects = options.pop("subjects", None)
    found = shared_concepts(table, feature(top, subjects and int(subjects)), base, **options)
    return [e.concept.text for e in found]


def test_the_rule_names_what_is_shared_and_enriched() -> None:
    assert evidence(table_of(20, 50), range(10)) == ["liver", "axial"]


def test_the_rule_is_silent_on_what_is_common_everywhere() -> None:
    assert evidence(table_of(20, 90), range(10)) == ["liver"]
    assert evidence(table_of(0, 90), range(10)) == []


def test_the_rule_wants_four_of_five() -> None:
    table = table_of(20, 50)
    assert evidence(table, [*range(16), *range(96, 100)]) == ["liver", "axial"]
    assert evidence(table, [*range(15), *range(95, 100)]) == []


def test_the_rule_does_not_trust_a_single_subject() -> None:
    """Ten rows of two subjects are two observations: [0.34, 1] holds the base rate of 0.5."""
    table = table_of(20, 50)
    assert evidence(table, range(10), subjects=2) == ["liver"]
    assert evidence(table, range(10), subjects=10) == ["liver", "axial"]


def test_the_rule_is_silent_on_what_few_of_the_images_tell() -> None:
    organs = [["liver"] if i < 16 else None if i < 25 else [] for i in range(100)]
    table = ConceptTable(pandas.DataFrame({"organs": organs}))
    assert evidence(table, range(20)) == ["liver"]
    assert evidence(table, range(21)) == []  # of 21, though all 16 that are known show it


def test_a_rules_name_says_things_first_and_is_none_without_evidence() -> None:
    table = table_of(20, 50)
    base, _ = table.shares(np.arange(100))
    assert rule_name(shared_concepts(table, feature(range(10)), base)) == "liver, axial"
    assert rule_name([]) is None


def test_one_name_does_not_take_all_places() -> None:
    table = table_of(20, 50)
    base, _ = table.shares(np.arange(100))
    take = at_most(2, lambda feature: shared_concepts(table, feature, base))
    liver, coronal = feature(range(10)), feature(range(50, 60))
    asked = [take(one) for one in (liver, liver, liver, coronal, liver)]
    assert asked == [True, True, False, True, False]
    unnamed = feature([0, 99, 1, 98])
    assert all(take(unnamed) for _ in range(5))


def test_wilson_by_hand() -> None:
    low, high = wilson(8, 10)
    z = 1.959963984540054
    for p in (low, high):  # the ends are where the score test is exactly at its limit
        assert (0.8 - p) ** 2 == pytest.approx(z * z * p * (1 - p) / 10)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(5, 5)[1] == 1.0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Left kidney", "Left kidney"),
        ('"Left kidney."', "Left kidney"),
        ("**Left kidney**", "Left kidney"),
        ("Concept: left kidney", "left kidney"),
        ("Sure! Here is the phrase: left kidney", "left kidney"),
        ("Sure, here's the concept:\nleft kidney", "left kidney"),
        ("The shared concept is the left kidney.", "left kidney"),
        ("The concept shared by these images is left kidney", "left kidney"),
        (
            'The one concept that they share and other medical images do not is "no finding."',
            "no finding",
        ),
        ("1. Left kidney\n2. Right kidney", "Left kidney"),
        ("- Left kidney", "Left kidney"),
        ("These images show axial slices of the liver", "axial slices of the liver"),
        ("Lung: upper lobe", "Lung: upper lobe"),
        ("Left kidney\n\nThis is because it is there in all of them.", "Left kidney"),
    ],
)
def test_boilerplate_is_removed(answer: str, expected: str) -> None:
    assert phrase(answer) == expected


@pytest.mark.parametrize("answer", ["", "\n", "...", "**", "word " * 13])
def test_what_is_no_phrase_is_an_error(answer: str) -> None:
    with pytest.raises(ValueError, match="phrase"):
        phrase(answer)


def test_names_that_say_the_same_are_the_same() -> None:
    assert same("Liver, axial") == same("axial liver") == same("the liver in axial")
    assert same("left kidney") != same("right kidney")


NAMED = {1: "liver", 2: "spleen", 3: "Liver", 4: "heart", 5: "brain", 6: "lung"}


@pytest.mark.parametrize("seed", range(20))
def test_distractors_are_different_names_in_random_places(seed: int) -> None:
    found = candidates(NAMED, 1, seed)
    assert found is not None
    texts = [same(name) for name, _ in found]
    assert len(set(texts)) == 5
    assert [name for name, true in found if true] == ["liver"]
    assert "Liver" not in [name for name, _ in found]
    assert found == candidates(dict(reversed(NAMED.items())), 1, seed)


def test_the_true_name_stands_anywhere() -> None:
    places = [[true for _, true in candidates(NAMED, 2, seed)].index(True) for seed in range(200)]
    # Chance of a place missing or taking over half of 200 draws is below 1e-15.
    assert set(places) == set(range(5))
    assert max(np.bincount(places)) < 100


def test_too_few_other_names_cannot_be_judged() -> None:
    assert candidates({1: "a", 2: "b", 3: "c", 4: "d", 5: "A"}, 1, 0) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B, A, E, C, D", (1, 0, 4, 2, 3)),
        ("B > A > E > C > D", (1, 0, 4, 2, 3)),
        ("1. B\n2. A\n3. E\n4. C\n5. D", (1, 0, 4, 2, 3)),
        ("A good ranking is: B, A, E, C, D.", (1, 0, 4, 2, 3)),
        ("**B**, **A**, **E**, **C**, **D**", (1, 0, 4, 2, 3)),
    ],
)
def test_rankings_are_read(text: str, expected: tuple[int, ...]) -> None:
    assert ranking(text, 5) == expected


@pytest.mark.parametrize("text", ["", "B", "B, A, E, C", "A, A, B, C, D", "BAECD", "liver, spleen"])
def test_half_a_ranking_is_an_error_and_no_guess(text: str) -> None:
    with pytest.raises(ValueError, match="no ranking"):
        ranking(text, 5)


class Says(LanguageModel):
    name = identity = "says"

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), []

    def complete(self, request: Request) -> Reply:
        self.asked.append(request)
        return Reply("ok", self.answers.pop(0), "says")


def test_an_unreadable_verdict_is_counted_apart() -> None:
    judge = RankingJudge(Says("B, A, E, C, D", "no idea"))
    case = Case(["x"] * 3, (), ["a", "b", "c", "d", "e"])
    assert judge.rank(case) == Verdict((1, 0, 4, 2, 3))
    assert judge.rank(case).outcome == "parse_failure"
    text = judge.llm.asked[0].messages[0].text
    assert "A. a" in text
    assert "E. e" in text


class Knows(Judge):
    """Puts a given name first."""

    name = identity = "knows"

    def __init__(self, name: str) -> None:
        self.name = name

    def rank(self, case: Case) -> Verdict:
        first = list(case.names).index(self.name)
        return Verdict((first, *(i for i in range(5) if i != first)))


def test_what_cannot_be_judged_is_left_out_for_its_reason() -> None:
    def record(number: int, names: dict[int, str], shown: int) -> dict:
        return judgement(Knows("spleen"), number, names, ["x"] * shown, tuple, 0, least=3)

    assert record(2, NAMED, 3)["rank"] == 1
    assert record(9, NAMED, 3)["detail"] == "unnamed"
    assert record(2, NAMED, 2)["detail"] == "fewer than 3 held-out images"
    assert record(2, {2: "spleen", 3: "a"}, 3)["detail"] == "fewer than 4 other names"


def test_the_tally_keeps_failures_out_of_the_ranks() -> None:
    records = [{"outcome": "ok", "rank": r} for r in (1, 1, 2, 5)]
    records += [{"outcome": "parse_failure", "detail": ""}] * 3
    records += [{"outcome": "left out", "detail": "unnamed"}]
    counted = tally(records)
    assert counted.failures == {"parse_failure": 3}
    assert counted.left_out == {"unnamed": 1}
    (success, first) = counted.rows()
    low, high = wilson(3, 4)
    assert success[1:] == [f"75.0 % [{100 * low:.1f}, {100 * high:.1f}]", "40 %", 4]
    assert first[2:] == ["20 %", 4]


def test_tfidf_ranks_rare_words_above_common_ones() -> None:
    found = TfIdf(["axial liver", "axial heart", "axial Kidneys", "coronal lung"])
    scores = found.scores("axial kidney")
    assert scores.argmax() == 2
    assert scores[3] == 0
    assert found.scores("nothing like it").tolist() == [0, 0, 0, 0]
    assert found.scores("axial liver")[0] == pytest.approx(1)


def test_images_stand_for_their_most_active_token() -> None:
    codes = csr_matrix(np.array([[0, 1.0], [3, 0], [0, 0], [0, 2], [5, 5], [9, 9]]))
    images = Images(codes, np.array([1, 1, 0, 0, 2, 3]), np.arange(5), np.array([0, 0, 0, 0, 1, 1]))
    assert images.first.tolist() == [0, 2, 4]
    active, at = images.activations([0, 1])
    assert active.tolist() == [[3, 1], [0, 2], [5, 5]]
    assert at.tolist() == [[1, 0], [2, 3], [4, 4]]


def searched(
    labels: list, active: list[float], subjects: list[int], k: int
) -> tuple[float, float, float]:
    """Precision of one query by the feature, by metadata, and by chance."""
    table = ConceptTable(pandas.DataFrame({"findings": labels}))
    n = len(labels)
    codes = csr_matrix(np.array(active)[:, None])
    images = Images(codes, np.arange(n), np.arange(n), np.array(subjects))
    queries = label_queries(table, images.first, ["findings"], 1)
    (query,) = [q for q in queries if q.text == "Edema"]
    (found,) = evaluate(images, table, Matcher({0: "Edema"}), {0: 1.0}, [query], k)
    return found.found, found.metadata, found.base


def test_who_has_no_label_takes_no_place_among_the_best() -> None:
    # Subjects 2 to 5 were not looked at; 0 and 1 have both images that show it.
    labels = [["Edema"], ["Edema"], ["Edema"], [], [], None, None, None, None]
    active = [3.0, 2, 2, 0, 0, 9, 9, 9, 9]
    found, metadata, _ = searched(labels, active, [0, 0, 1, 0, 1, 2, 3, 4, 5], k=3)
    assert (found, metadata) == (1, 1)


def test_an_image_without_activation_is_not_found_before_one_with() -> None:
    labels = [["Edema"], ["Edema"], ["Mass"], ["Mass"], ["Mass"]]
    found, metadata, _ = searched(labels, [3.0, 2, 0, 0, 0], [0, 0, 1, 2, 3], k=2)
    assert (found, metadata) == (1, 1)
    assert searched(labels, [3.0, 2, 0, 0, 0], [0, 0, 1, 2, 3], k=4)[0] == 0.5


def test_a_random_choice_spreads_over_subjects_too() -> None:
    # One subject has 90 images that show it, nine have one each that does not.
    labels = [["Edema"]] * 90 + [["Mass"]] * 9
    base = searched(labels, [1.0] * 99, [0] * 90 + [*range(1, 10)], k=10)[2]
    assert base == pytest.approx(0.1), "one image of each subject, not 90 of 99"


def test_scores_are_the_cosine_on_the_querys_features() -> None:
    codes = csr_matrix(np.array([[3.0, 4, 9], [6, 8, 0], [0, 5, 1], [0, 0, 7]]))
    images = Images(codes, np.arange(4), np.arange(4), np.arange(4))
    scores = images.scores([0, 1], [6.0, 8.0])
    assert scores[:2] == pytest.approx([1, 1])
    assert scores[2] == pytest.approx(0.8)
    assert scores[3] == 0
    assert scores[1] > scores[0]  # of equal cosine the more active one first
    assert images.best(scores, 3).tolist() == [1, 0, 2]
    one = images.scores([1], [2.0])
    assert np.argsort(-one)[:3].tolist() == [1, 2, 0]


def test_a_language_model_chooses_by_place_and_is_asked_three_times() -> None:
    names = {40: "liver", 7: "spleen", 99: "heart"}
    model = Says("the liver", '{"features": [0, 1]}', 'Here: {"features": [2, 3]}')
    match = Matcher(names, "llm", count=2, llm=model).match("abdomen")
    assert match.features == (40, 99)
    assert [request.sample for request in model.asked] == [0, 1, 2]
    failed = Matcher(names, "llm", count=2, llm=Says(*["no"] * 3)).match("abdomen")
    assert (failed.features, failed.outcome) == ((), "parse_failure")


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", '{"features": [1, 1]}', '{"features": [1, 4]}', '{"features": "1, 2"}']
)
def test_numbers_that_are_none_are_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="features"):
        numbers_in(text, 2, 3)


def test_words_find_names_and_shared_concepts_and_leave_what_is_far() -> None:
    names = {1: "liver", 2: "upper abdomen", 3: "kidney left", 4: "lung left"}
    matcher = Matcher(names, texts={2: "stomach spleen"})
    assert matcher.match("livers").features == (1,)
    assert matcher.match("spleen").features == (2,)
    assert matcher.match("left kidney").features == (3,)
    assert matcher.match("pneumothorax").outcome == "nothing matches"
    assert math.isclose(matcher.match("liver").scores[0], 1.0)


class Likes(Says):
    """Finds short names likely always, and a name that is mentioned more likely."""

    def choose(self, messages: Sequence[Message], options: Sequence[str]) -> ChoiceScores:
        text = messages[0].text
        scores = [-3.0 * len(option) + 2 * text.count(option) for option in options]
        return ChoiceScores(np.array(scores), np.ones(len(options), dtype=np.int64))


def test_likely_words_have_no_advantage_with_the_judge_by_probabilities() -> None:
    case = Case(["organs: spleen"] * 2, (), ["leg", "kidney left", "spleen", "eye", "axial"])
    judge = ChoiceJudge(Likes())
    assert judge.rank(case).order[0] == 2
    assert judge.llm.choose([Message("user", "spleen spleen")], case.names).logprobs.argmax() == 0


def test_a_model_names_by_the_likeliest_of_the_concepts_it_is_shown() -> None:
    organs = [["spleen", "liver"], ["spleen"], ["spleen", "leg"], ["eye"], []]
    table = ConceptTable(pandas.DataFrame({"organs": organs}))
    model = Likes()
    # "eye" and "leg" are short and likely anyway; "eye" is not shown and cannot be chosen.
    assert choose_name(model, table, feature([0, 1, 2])) == "spleen"
    assert choose_name(model, table, feature([4])) is None


def test_long_phrases_have_no_advantage_as_names() -> None:
    class Repeats(Says):
        """Gains half a nat by each word of a long phrase, and a whole one by each spleen."""

        def choose(self, messages: Sequence[Message], options: Sequence[str]) -> ChoiceScores:
            words = np.array([len(option.split()) for option in options])
            there = np.array([option in messages[0].text for option in options])
            gain = np.array([1.0 if option == "spleen" else 0.5 for option in options])
            return ChoiceScores(words * (gain * there - 3), words)

    table = ConceptTable(pandas.DataFrame({"organs": [["spleen", "upper lobe of the lung"]] * 2}))
    assert choose_name(Repeats(), table, feature([0, 1])) == "spleen"


def test_the_sentence_judge_asks_what_sets_these_images_apart() -> None:
    class Encoder:
        """Texts as unit vectors of which of three words they hold."""

        def encode(self, texts: Sequence[str]) -> np.ndarray:
            rows = [[w in t for w in ("axial", "liver", "spleen")] for t in texts]
            found = np.array(rows, dtype=np.float32) + 1e-3
            return found / np.linalg.norm(found, axis=1, keepdims=True)

    judge = SentenceJudge("tiny")
    judge._loaded = Encoder()
    shown, names = ["axial liver", "axial liver", "axial"], ["axial", "liver", "spleen"]
    assert judge.rank(Case(shown, (), names)).order == (0, 1, 2)
    background = ("axial", "axial", "axial spleen", "axial liver")
    assert judge.rank(Case(shown, (), names, background)).order[0] == 1
