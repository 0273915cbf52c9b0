"""Bootstrap intervals against closed forms and against their own definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagittal_core.seeds import counter_seed
from sagittal_core.stats import Interval, bootstrap_interval, paired_bootstrap


def test_mean_interval_of_a_large_sample_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=1000)
    interval = bootstrap_interval(values)
    half = 1.959964 * values.std() / np.sqrt(values.size)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03 * half)
    assert (interval.level, interval.n) == (0.95, 1000)


def test_coverage_of_the_mean() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        interval = bootstrap_interval(rng.normal(size=40), resamples=600)
        hits += interval.low <= 0.0 <= interval.high
    # Percentile bootstrap at n = 40 covers about 93.5 %; four standard errors around it.
    assert 0.885 < hits / 400 < 0.985


def test_clusters_widen_the_interval_by_the_design_effect() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(50), 20)
    values = rng.normal(size=50)[groups]  # wholly correlated inside a group
    alone = bootstrap_interval(values)
    clustered = bootstrap_interval(values, groups=groups)
    ratio = (clustered.high - clustered.low) / (alone.high - alone.low)
    assert clustered.n == 50
    assert ratio == pytest.approx(np.sqrt(20), rel=0.1)


@pytest.mark.parametrize("statistic", [np.mean, np.median])
@pytest.mark.parametrize("ragged", [False, True])
def test_groups_equal_a_plain_loop(statistic: object, ragged: bool) -> None:
    rng = np.random.default_rng(3)
    sizes = np.array([1, 4, 2, 3, 5]) if ragged else np.full(5, 3)
    groups = rng.permutation(np.repeat(list("abcde"), sizes))
    values = rng.normal(size=groups.size)
    got = bootstrap_interval(
        values,
        groups=groups,
        resamples=200,
        seed=7,
        statistic=statistic,  # type: ignore[arg-type]
    )
    drawn = np.random.default_rng(counter_seed(7, "bootstrap")).integers(5, size=(200, 5))
    pools = [np.concatenate([values[groups == "abcde"[u]] for u in row]) for row in drawn]
    expected = np.quantile([statistic(p) for p in pools], [0.025, 0.975])  # type: ignore[operator]
    np.testing.assert_allclose([got.low, got.high], expected, rtol=1e-12)


def test_pairing_removes_the_common_part() -> None:
    rng = np.random.default_rng(4)
    subject = rng.normal(scale=10.0, size=30)
    a, b = subject + 1.0 + rng.normal(scale=0.1, size=30), subject
    interval = paired_bootstrap(a, b)
    assert interval.low > 0.9
    assert interval.high < 1.1


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30),
    st.floats(0.5, 0.99),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_interval_is_deterministic_and_inside_the_data(
    values: list[float], level: float, seed: int
) -> None:
    first = bootstrap_interval(values, level=level, resamples=100, seed=seed)
    assert first == bootstrap_interval(values, level=level, resamples=100, seed=seed)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert min(values) - slack <= first.low <= first.high <= max(values) + slack


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([1.0], {}, "two independent units"),
        ([1.0, 2.0], {"groups": ["a", "a"]}, "two independent units"),
        ([], {}, "two independent units"),
        ([1.0, np.nan], {}, "finite"),
        ([[1.0, 2.0]], {}, "1-D"),
        ([1.0, 2.0], {"groups": [1]}, "groups have shape"),
        ([1.0, 2.0], {"level": 1.0}, "level"),
        ([1.0, 2.0], {"resamples": 0}, "resamples"),
    ],
)
def test_bad_input(values: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, **options)  # type: ignore[arg-type]


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        paired_bootstrap([1.0, 2.0], [1.0])


def test_text_form() -> None:
    assert str(Interval(1.0, 0.5, 1.5, 0.95, 9)) == "1 [0.5, 1.5]"
