"""Tasks on radiographs whose truth is known, by models that see it or do not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from planted import FINDINGS, PlantedModel, benchmark, found, run, write_index

from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr.metrics.binary import auroc
from sagittal_cxr.tasks.items import read_items
from sagittal_cxr.tasks.linear_probe import LinearProbe, patient_share
from sagittal_cxr.tasks.multilabel import Scored, label_measures
from sagittal_cxr.tasks.prompts import PromptFamily, Templates, builtin_families, families
from sagittal_cxr.tasks.retrieval import Retrieval
from sagittal_cxr.tasks.task import NotApplicable
from sagittal_cxr.tasks.zero_shot import ZeroShot


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_index(tmp_path_factory.mktemp("index"), patients=60)


def test_zero_shot_finds_what_is_there_and_ranks_noise_by_chance(
    index: Path, tmp_path: Path
) -> None:
    task = ZeroShot(families=["published", "sentence"], resamples=100, tail=3)
    seeing = run(task, PlantedModel(1), benchmark(index), tmp_path)
    assert found(seeing, "macro AUROC").estimate > 0.99
    assert found(seeing, "AUROC", "Edema").estimate > 0.99
    blind = run(task, PlantedModel(0), benchmark(index), tmp_path)
    macro = found(blind, "macro AUROC")
    assert 0.35 < macro.estimate < 0.65
    assert macro.low is not None
    assert macro.low < macro.estimate < macro.high
    assert macro.n == 18
    # Rows of the items are those of the test split, and give the same figure again.
    items = read_items(tmp_path / "cell")
    assert set(items["variant"]) == {"published", "sentence"}
    one = items[(items["label"] == "Mass") & (items["variant"] == "published")]
    one = one[one["truth"].notna()]
    assert auroc(one["truth"].to_numpy(), one["score"].to_numpy()) == pytest.approx(
        found(blind, "AUROC", "Mass").estimate
    )
    assert "patient" not in items.columns


def test_uncertain_images_do_not_count(index: Path, tmp_path: Path) -> None:
    measures = run(ZeroShot(families=["published"]), PlantedModel(1), benchmark(index), tmp_path)
    rows = benchmark(index).rows()
    doubtful = sum("Edema" in names for names in rows["uncertain"])
    detail = found(measures, "AUROC", "Edema").detail
    assert doubtful > 0
    assert detail["positives"] + detail["negatives"] == len(rows) - doubtful


def test_the_scale_changes_probabilities_and_no_order(index: Path, tmp_path: Path) -> None:
    task = ZeroShot(families=["published"], resamples=20)
    one = run(task, PlantedModel(0.5, scale=1), benchmark(index), tmp_path)
    other = run(task, PlantedModel(0.5, scale=400), benchmark(index), tmp_path)
    for name in ("macro AUROC", "macro AUPRC", "macro ECE, no logit scale"):
        assert found(one, name).estimate == found(other, name).estimate
    for name in ("macro Brier", "macro ECE"):
        assert found(one, name).estimate != pytest.approx(found(other, name).estimate, rel=0.01)
    assert found(other, "macro AUROC").detail["logit scale"] == pytest.approx(400)
    # A scale of 400 saturates the probabilities of many images; scores still have no such ties.
    items = read_items(tmp_path / "cell")
    assert items["score"].nunique() > items["probability"].nunique()


def test_families_that_say_nothing_widen_the_spread(index: Path, tmp_path: Path) -> None:
    own = {"silent": PromptFamily(["picture"], ["image"])}
    task = ZeroShot(families=["published", "silent"], prompts=own, resamples=20)
    measures = run(task, PlantedModel(1), benchmark(index), tmp_path)
    assert found(measures, "macro AUROC, silent prompts").estimate == pytest.approx(0.5)
    spread = found(measures, "macro AUROC, spread over prompts")
    assert spread.estimate == pytest.approx(found(measures, "macro AUROC").estimate - 0.5)
    assert set(spread.detail["by family"]) == {"published", "silent"}
    assert found(measures, "AUROC, spread over prompts", "Mass").estimate > 0.4


def test_prompts_are_worded_as_published() -> None:
    published = builtin_families()["published"]
    assert published.texts("Pleural Effusion") == (["Pleural Effusion"], ["no Pleural Effusion"])
    for name in ("No Finding", "No finding"):
        assert published.texts(name) == ([name], ["there is Finding"])
    assert len(families(None, None)) >= 3
    for family in families(None, None).values():
        for side in family.texts("Lung Opacity"):
            assert all("lung opacity" in text.lower() for text in side)
    with pytest.raises(ConfigError, match=r"publishd.*published"):
        families(["publishd"], None)
    with pytest.raises(ConfigError, match="may hold"):
        PromptFamily(["{d}"], ["no"]).texts("Mass")
    special = PromptFamily(["{c}"], ["no {l}"], {"Mass": Templates(["a mass"], ["none"])})
    assert special.texts("mass") == (["a mass"], ["none"])


def test_the_wording_names_the_cell() -> None:
    one = ZeroShot(prompts={"mine": PromptFamily(["{c}"], ["no {c}"])}, families=["mine"])
    other = ZeroShot(prompts={"mine": PromptFamily(["{c}!"], ["no {c}"])}, families=["mine"])
    assert one.wording != other.wording


@pytest.mark.parametrize(("negatives", "more"), [("judged", 0), ("healthy", -1), ("sick", -1)])
def test_negatives_are_those_asked_for(index: Path, negatives: str, more: int) -> None:
    one = benchmark(index, negatives=negatives)
    rows = one.rows()
    truth = one.truth(rows, FINDINGS)
    plain = benchmark(index).truth(rows, FINDINGS)
    assert ((truth == 1) == (plain == 1)).all()
    count, before = (truth[:, 1] == 0).sum(), (plain[:, 1] == 0).sum()
    assert np.sign(count - before) == more
    healthy = np.array(["No Finding" in names for names in rows["positive"]])
    if negatives == "healthy":
        assert healthy[truth[:, 1] == 0].all()
    if negatives == "sick":
        assert not healthy[truth[:, 1] == 0].any()


def test_images_that_were_not_judged_can_be_negatives(index: Path) -> None:
    rows = benchmark(index).rows().copy()
    rows["negative"] = [[] for _ in range(len(rows))]
    assert not (benchmark(index).truth(rows, FINDINGS) == 0).any()
    truth = benchmark(index, negatives="unjudged").truth(rows, FINDINGS)
    assert (truth == 0).any()
    doubtful = np.array(["Edema" in names for names in rows["uncertain"]])
    assert np.isnan(truth[doubtful, 0]).all()


def test_a_benchmark_takes_its_rows_and_says_what_is_missing(index: Path) -> None:
    lateral = benchmark(index, views=["LATERAL"]).rows()
    assert set(lateral["view"]) == {"LATERAL"}
    assert set(lateral["split"]) == {"test"}
    with pytest.raises(ConfigError, match=r"no view AP.*LATERAL, PA"):
        benchmark(index, views=["AP"]).rows()
    with pytest.raises(ConfigError, match="no dataset mimic"):
        benchmark(index, datasets=["mimic"]).rows()
    with pytest.raises(DataError, match="Cardiomegaly"):
        benchmark(index).truth(lateral, ["Cardiomegaly"])
    several = benchmark(index, exposure={"one": "train"})
    assert several.for_model("one").exposure == "train"
    assert several.for_model("two").exposure == "unknown"


def scored(truth: list[list[float]], scores: list[list[float]]) -> Scored:
    labels = [f"finding {number}" for number in range(len(truth))]
    return Scored(labels, np.array(truth).T, np.array(scores).T, np.arange(len(truth[0])))


def test_rare_findings_are_pooled_within_a_finding() -> None:
    rng = np.random.default_rng(0)
    truth = [[1, 0, 0, 0, 0, 1], [0, 0, 1, 0, np.nan, 0]]
    scores = rng.random((2, 6)).tolist()
    right = pairs = 0
    for labels, values in zip(np.array(truth), np.array(scores), strict=True):
        yes, no = values[labels == 1], values[labels == 0]
        right, pairs = right + (yes[:, None] > no).sum(), pairs + len(yes) * len(no)
    measures = label_measures(scored(truth, scores), tail=3, resamples=50)
    tail = found(measures, "tail AUROC")
    assert tail.estimate == pytest.approx(right / pairs)
    assert tail.detail["positives"] == 3
    assert not [one for one in measures if one.name == "head AUROC"]
    # Another scale of one finding's scores changes nothing: findings are never compared.
    stretched = [scores[0], [100 * value - 7 for value in scores[1]]]
    again = found(label_measures(scored(truth, stretched), tail=3, resamples=50), "tail AUROC")
    assert (again.estimate, again.low, again.high) == (tail.estimate, tail.low, tail.high)
    # Alone in the tail, a finding has its own AUROC.
    alone = label_measures(scored(truth, scores), tail=2, resamples=50)
    one = found(alone, "AUROC", "finding 1")
    assert found(alone, "tail AUROC").estimate == one.estimate
    assert found(alone, "head AUROC").estimate == found(alone, "AUROC", "finding 0").estimate


def test_a_finding_of_few_patients_has_no_interval() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((3, 60))
    truth[0, :4], truth[1, :5], truth[2, :] = 1, 1, 1
    truth[2, :4] = 0
    measures = label_measures(scored(truth.tolist(), rng.random((3, 60)).tolist()), resamples=99)
    for name, given in (("finding 0", False), ("finding 1", True), ("finding 2", False)):
        one = found(measures, "AUROC", name)
        assert (one.low is not None) == given
        assert one.draws is not None
    assert found(measures, "macro AUROC").detail["findings with too few patients"] == 2
    tail = found(measures, "tail AUROC")
    assert tail.low is not None
    # Four images of one patient are one patient.
    few = scored(truth[:2].tolist(), rng.random((2, 60)).tolist())
    few.patients = np.maximum(np.arange(60), 4)
    again = label_measures(few, resamples=99)
    assert found(again, "AUROC", "finding 1").detail["patients with it"] == 1
    assert found(again, "tail AUROC").low is None


def test_findings_without_both_values_are_named() -> None:
    truth = [[1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    measures = label_measures(scored(truth, [[1, 0, 1, 0, 1, 0], [0.0] * 6]), resamples=20)
    left = found(measures, "macro AUROC").detail["left out"]
    assert left == {"finding 1": "0 positive and 6 negative images"}
    assert found(measures, "macro AUROC").estimate == 1


def test_the_macro_interval_is_of_the_mean_over_the_same_resamples() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (3, 60)).astype(float).tolist()
    measures = label_measures(scored(truth, rng.random((3, 60)).tolist()), resamples=200)
    macro = found(measures, "macro AUROC")
    every = [one.draws for one in measures if one.name == "AUROC" and one.label]
    assert np.allclose(macro.draws, np.mean(every, axis=0))
    assert macro.low == pytest.approx(np.quantile(macro.draws, 0.025))


def test_retrieval_finds_each_report_and_states_chance(index: Path, tmp_path: Path) -> None:
    measures = run(Retrieval(resamples=100), PlantedModel(1), benchmark(index), tmp_path)
    rows = benchmark(index).rows()
    distinct = rows["text"].nunique()
    assert distinct < len(rows)
    for direction in ("image to text", "text to image"):
        one = found(measures, f"{direction} R@1")
        assert one.estimate > 0.9
        assert one.detail["distinct texts"] == distinct
        assert found(measures, f"{direction} median rank").estimate == 1
    assert found(measures, "image to text R@5").detail["chance"] == pytest.approx(5 / distinct)
    blind = run(Retrieval(resamples=100), PlantedModel(0), benchmark(index), tmp_path)
    mean = found(blind, "image to text mean rank")
    assert mean.low < (distinct + 1) / 2 < mean.high
    items = read_items(tmp_path / "cell")
    ranks = items["image to text rank"]
    assert found(blind, "image to text R@10").estimate == pytest.approx((ranks <= 10).mean())
    once = items.drop_duplicates("text")["text to image rank"]
    assert found(blind, "text to image R@5").estimate == pytest.approx((once <= 5).mean())
    # The least rank that half of the texts do not exceed.
    lower_median = np.sort(once)[(len(once) - 1) // 2]
    assert found(blind, "text to image median rank").estimate == lower_median


def test_text_tasks_need_texts(index: Path, tmp_path: Path) -> None:
    silent = write_index(tmp_path / "silent", reports=False)
    with pytest.raises(NotApplicable, match="no reports"):
        run(Retrieval(), PlantedModel(), benchmark(silent), tmp_path)

    class Mute:
        def eval(self):
            return self

    for task in (Retrieval(), ZeroShot()):
        with pytest.raises(NotApplicable, match="no text encoder"):
            run(task, Mute(), benchmark(index), tmp_path)


def test_a_probe_learns_from_train_and_is_judged_on_test(index: Path, tmp_path: Path) -> None:
    task = LinearProbe(resamples=100, tail=3)
    measures = run(task, PlantedModel(1), benchmark(index), tmp_path)
    assert found(measures, "macro AUROC").estimate > 0.97
    assert found(measures, "macro AUROC").detail["chosen on"] == "val"
    assert found(measures, "macro sensitivity").estimate > 0.8
    assert found(measures, "sensitivity", "Mass").detail["criterion"].startswith("largest Youden")


def test_shares_of_patients_are_nested_and_whole() -> None:
    patients = np.repeat([f"p{number}" for number in range(50)], 3)
    small, large = (patient_share(patients, share, 0, 0) for share in (0.1, 0.5))
    assert small.sum() == 15
    assert large.sum() == 75
    assert large[small].all()
    assert len(set(patients[small]) & set(patients[~small])) == 0
    assert (patient_share(patients, 0.1, 0, 1) != small).any()
    assert patient_share(patients, 1.0, 0, 0).all()
    assert patient_share(patients, 0.001, 0, 0).sum() == 3


def test_fewer_patients_train_a_worse_probe(index: Path, tmp_path: Path) -> None:
    task = LinearProbe(fractions=[0.1, 1.0], draws=3, resamples=50)
    measures = run(task, PlantedModel(0.6), benchmark(index), tmp_path)
    few = found(measures, "macro AUROC, 10 % of patients")
    assert len(few.detail["each"]) == 3
    assert few.estimate < found(measures, "macro AUROC").estimate
    assert few.detail["training patients"] == 3
    # Of the same findings, although three patients do not show all of them.
    assert few.detail["findings"] == found(measures, "macro AUROC").detail["findings"]


def test_a_finding_that_training_lacks_is_left_out(index: Path, tmp_path: Path) -> None:
    folder = write_index(tmp_path / "index", patients=60)
    file = folder / "rows-00000.parquet"
    frame = pandas.read_parquet(file)
    frame["positive"] = [
        [name for name in names if name != "Mass" or split != "train"]
        for names, split in zip(frame["positive"], frame["split"], strict=True)
    ]
    frame.to_parquet(file)
    measures = run(LinearProbe(resamples=20), PlantedModel(1), benchmark(folder), tmp_path)
    assert "0 positive" in found(measures, "macro AUROC").detail["not fitted"]["Mass"]
    assert not [one for one in measures if one.label == "Mass"]


def test_without_val_rows_some_training_patients_choose(tmp_path: Path) -> None:
    folder = write_index(tmp_path / "index", patients=60)
    file = folder / "rows-00000.parquet"
    frame = pandas.read_parquet(file)
    frame.loc[frame["split"] == "val", "split"] = "train"
    frame.to_parquet(file)
    measures = run(LinearProbe(resamples=20), PlantedModel(1), benchmark(folder), tmp_path)
    macro = found(measures, "macro AUROC")
    assert macro.detail["chosen on"] == "a fifth of the training patients"
    assert macro.detail["training patients"] == 34
    assert macro.estimate > 0.95


def test_features_are_computed_once(index: Path, tmp_path: Path) -> None:
    model = PlantedModel(1)
    run(ZeroShot(resamples=5), model, benchmark(index), tmp_path)
    seen = model.calls
    assert seen >= len(benchmark(index).rows())
    run(Retrieval(resamples=5), model, benchmark(index), tmp_path)
    run(ZeroShot(resamples=5), model, benchmark(index), tmp_path)
    assert model.calls == seen
    other = PlantedModel(0.9)
    run(Retrieval(resamples=5), other, benchmark(index), tmp_path)
    assert other.calls >= len(benchmark(index).rows())


def test_a_fitted_probe_is_not_fitted_again(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = LinearProbe(resamples=5)
    first = run(task, PlantedModel(1), benchmark(index), tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(LinearProbe, "_fit", refuse)
    again = run(task, PlantedModel(1), benchmark(index), tmp_path)
    assert [one.estimate for one in again] == pytest.approx([one.estimate for one in first])


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="fractions"):
        LinearProbe(fractions=[0.0])
    with pytest.raises(ConfigError, match="strengths"):
        LinearProbe(strengths=[])
