"""Intervals over seeds and test objects, against scipy, scikit-learn, a direct loop, and a known truth.

The runs here are predictions made by drawing. Their sums are those that the evaluation keeps for each object."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import r2_score

from sie.evaluation.protocol import _sums_of_heads
from sie.evaluation.statistics import (
    Resampled,
    best,
    difference,
    differences,
    holm,
    interval,
    p_value,
    results_table,
    summary,
)

OBJECTS, VIEWS, SEEDS = 40, 5, (0, 1, 2)
R2, R2_ENTRY, DEGREES = "rotation_r2_pooled", "rotation_r2_per_entry", "rotation_degrees_linear"
TOP1 = ("top1", "all", "test")
OFFSETS = {"a": 0.5, "b": 0.65, "c": 0.66}  # errors of each method


def quaternions(rng: np.random.Generator) -> np.ndarray:
    q = rng.normal(size=(OBJECTS * VIEWS, 4)) + [0, 0, 0, 1]
    return q / np.linalg.norm(q, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def answers() -> dict:
    "What heads predict and should predict, by method and seed: class, rotation, and rotation by a linear head."
    rng = np.random.default_rng(0)
    y, labels = quaternions(rng), rng.integers(7, size=OBJECTS).repeat(VIEWS)
    hard = rng.lognormal(sigma=0.5, size=OBJECTS).repeat(VIEWS)[:, None]
    found = {}
    for method, offset in OFFSETS.items():
        for seed in SEEDS:
            error = offset * (1 + 0.05 * rng.normal()) * hard
            logits = rng.normal(size=(len(y), 7)) + 2 * np.eye(7)[labels] / (1 + error)
            heads = {
                ("all", "class", True): (logits, labels),
                ("all", "rotation", False): (y + error * rng.normal(size=y.shape), y),
                ("all", "rotation", True): (y + 2 * error * rng.normal(size=y.shape), y),
            }
            found[method, seed] = {head: tuple(map(torch.from_numpy, pair)) for head, pair in heads.items()}
    return found


@pytest.fixture(scope="module")
def sums(answers) -> dict:
    return {run: _sums_of_heads(heads, "test", torch.arange(100, 100 + OBJECTS)) for run, heads in answers.items()}


@pytest.fixture(scope="module")
def resampled(sums) -> Resampled:
    return Resampled(sums, draws=300)


def scored(heads: dict, metric: str, objects: np.ndarray) -> float:
    "A metric of some objects, each as often as it is listed, from the predictions themselves."
    rows = (objects[:, None] * VIEWS + np.arange(VIEWS)).ravel()
    linear = metric.endswith("_linear") or metric == "top1"
    predicted, y = (of.numpy()[rows] for of in heads["all", "class" if metric == "top1" else "rotation", linear])
    if metric == "top1":
        return np.mean(predicted.argmax(1) == y)
    if metric in (R2, R2_ENTRY):
        axis = None if metric == R2 else 0
        return np.mean(1 - ((y - predicted) ** 2).sum(axis) / ((y - y.mean(axis)) ** 2).sum(axis))
    unit = predicted / np.linalg.norm(predicted, axis=1, keepdims=True)
    angles = 2 * np.degrees(np.arccos(abs((unit * y).sum(1)).clip(max=1)))
    return np.sort(angles)[(len(angles) - 1) // 2]  # the lower median, as torch's


def test_what_the_tests_compute_is_scikit_learns(answers):
    heads, drawn = answers["a", 0], np.array([3, 1, 1, 7])
    rows = (drawn[:, None] * VIEWS + np.arange(VIEWS)).ravel()
    predicted, y = (of.numpy()[rows] for of in heads["all", "rotation", False])
    assert scored(heads, R2, drawn) == pytest.approx(r2_score(y.ravel(), predicted.ravel()), abs=1e-12)
    assert scored(heads, R2_ENTRY, drawn) == pytest.approx(r2_score(y, predicted), abs=1e-12)


def tidy(answers: dict, metrics=("top1", R2, R2_ENTRY, DEGREES), seeds=SEEDS) -> pd.DataFrame:
    rows = []
    for (method, seed), heads in answers.items():
        for metric in metrics if seed in seeds else ():
            rows.append(("p", method, seed, "all", "test", metric, scored(heads, metric, np.arange(OBJECTS))))
    return pd.DataFrame(rows, columns=["preset", "method", "seed", "part", "split", "metric", "value"])


def drawn(resampled: Resampled) -> list[np.ndarray]:
    "The objects of each draw."
    return [np.arange(OBJECTS).repeat(counts) for counts in resampled.counts("test", OBJECTS)]


# The median is known to a degree.
@pytest.mark.parametrize(("metric", "tolerance"), [("top1", 1e-12), (R2, 1e-9), (R2_ENTRY, 1e-9), (DEGREES, 1)])
def test_the_sums_of_drawn_objects_give_what_a_direct_loop_gives(answers, resampled, metric, tolerance):
    for seed in SEEDS[:2]:
        direct = [scored(answers["b", seed], metric, objects) for objects in drawn(resampled)[:50]]
        found = resampled.values("b", [seed], (metric, "all", "test"))[:50, 0]
        np.testing.assert_allclose(found, direct, rtol=0, atol=tolerance)


@pytest.mark.parametrize("metric", ["top1", R2, R2_ENTRY])
def test_an_interval_over_seeds_and_objects_is_that_of_a_direct_loop(answers, resampled, metric):
    "In each draw of objects, Student's draw for the seeds is added to the mean over the seeds; here with fresh draws."
    rng = np.random.default_rng(1)
    both = [
        [scored(answers["a", s], metric, objects) - scored(answers["b", s], metric, objects) for s in SEEDS]
        for objects in drawn(resampled)
    ]
    full = np.arange(OBJECTS)
    of_seeds = [scored(answers["a", s], metric, full) - scored(answers["b", s], metric, full) for s in SEEDS]
    error = stats.sem(of_seeds)
    loop = np.concatenate([np.mean(one) + error * rng.standard_t(len(SEEDS) - 1, 500) for one in both])
    mean, low, high = difference(tidy(answers, [metric]), (metric, "all", "test"), "a", "b", resampled)
    assert mean == pytest.approx(np.mean(of_seeds), abs=1e-6)
    width = np.subtract(*np.quantile(loop, [0.975, 0.025]))
    np.testing.assert_allclose([low, high], np.quantile(loop, [0.025, 0.975]), atol=0.06 * width)
    table = differences(tidy(answers, [metric]), {"": (metric, "all", "test")}, [("a", "b")], resampled)
    share = np.mean(loop <= 0)
    assert table["p"].item() == pytest.approx(2 * min(share, 1 - share), abs=0.01)
    assert table["covers"].item() == "seeds and objects"


@pytest.mark.parametrize("metric", ["top1", R2, R2_ENTRY])
def test_with_one_seed_an_interval_is_that_of_scipys_bootstrap(answers, sums, metric):
    many = Resampled(sums, draws=4000, seed=5)
    options = {"method": "percentile", "n_resamples": 4000, "rng": 0, "vectorized": False}

    def of_a(objects):
        return scored(answers["a", 0], metric, objects)

    def of_difference(objects):
        return of_a(objects) - scored(answers["b", 0], metric, objects)

    metrics, key = tidy(answers, [metric], seeds=[0]), (metric, "all", "test")
    row = summary(metrics, many).set_index("method").loc["a"]
    assert row["covers"] == "objects"
    found = {of_a: row[["low", "high"]], of_difference: difference(metrics, key, "a", "b", many)[1:]}
    for statistic, interval_ in found.items():
        expected = stats.bootstrap((np.arange(OBJECTS),), statistic, **options).confidence_interval
        np.testing.assert_allclose(list(interval_), expected, atol=0.08 * (expected.high - expected.low))


def simulated(rng, experiments, seeds, objects, by_seed, by_object, by_both):
    "Scores around 0: values (experiments, seeds), and `Resampled` with a method for each experiment."
    scores = rng.normal(0, by_seed, (experiments, seeds, 1)) + rng.normal(0, by_object, (experiments, 1, objects))
    scores = scores + rng.normal(0, by_both, (experiments, seeds, objects))
    kept = {"test/objects": np.arange(objects), "test/views": np.ones(objects)}
    runs = {(str(i), s): kept | {"test/all/top1": of} for i, each in enumerate(scores) for s, of in enumerate(each)}
    return scores.mean(2), Resampled(runs, draws=500)


@pytest.mark.parametrize(
    ("seeds", "by_seed", "by_object", "by_both"),
    [
        (1, 0, 1, 0.5),  # objects only: a single seed cannot tell more
        (2, 0.3, 0.01, 0.01),  # mostly seeds
        (2, 0, 1, 0),  # only objects
        (2, 0.15, 1, 0.3),
        (4, 0.3, 0.01, 0.01),
        (4, 0.15, 1, 0.3),
    ],
)
def test_intervals_contain_the_truth_and_p_values_are_uniform(seeds, by_seed, by_object, by_both):
    "In 1,200 experiments of 100 objects, 95 % +- 2; with an interaction up to 99 %, as it is counted twice."
    count = 1200
    rng = np.random.default_rng(2)
    values, resampled = simulated(rng, count, seeds, 100, by_seed, by_object, by_both)
    of = [resampled.values(str(i), range(seeds), TOP1) for i in range(count)]
    intervals = np.array([interval(*each) for each in zip(values, of)])
    p = np.array([p_value(*each) for each in zip(values, of)])
    contained = (intervals[:, 1] < 0) & (0 < intervals[:, 2])
    assert 0.93 < contained.mean() < (0.99 if by_both > 0.1 and seeds > 1 else 0.97)
    assert np.mean((p > 0.05) == contained) > 0.98  # p inverts the interval
    assert np.mean(p < 0.5) == pytest.approx(0.5, abs=0.1)


def test_seeds_drawn_with_replacement_would_contain_the_truth_far_too_rarely():
    "Why the level of the seeds is Student's: two seeds have three resamples."
    rng = np.random.default_rng(3)
    values, resampled = simulated(rng, 300, 2, 60, 0.3, 0.01, 0.01)
    contained = []
    for i in range(len(values)):
        of_seeds = resampled.values(str(i), range(2), TOP1)
        plain = np.take_along_axis(of_seeds, rng.integers(2, size=of_seeds.shape), 1).mean(1)
        low, high = np.quantile(plain, [0.025, 0.975])
        contained.append(low < 0 < high)
    assert np.mean(contained) < 0.65


def test_methods_are_paired_by_object():
    "Objects that are hard for both do not widen the interval of their difference."
    rng = np.random.default_rng(4)
    hard = rng.normal(0, 1, 60)
    kept = {"test/objects": np.arange(60), "test/views": np.ones(60)}
    scores = {method: hard + shift + rng.normal(0, 0.05, 60) for method, shift in {"a": 0.05, "b": 0}.items()}
    resampled = Resampled({(method, 0): kept | {"test/all/top1": of} for method, of in scores.items()})
    rows = [("p", method, 0, "all", "test", "top1", of.mean()) for method, of in scores.items()]
    metrics = pd.DataFrame(rows, columns=["preset", "method", "seed", "part", "split", "metric", "value"])
    means = summary(metrics, resampled)
    assert (means["high"] - means["low"]).min() > 0.4
    _, low, high = difference(metrics, TOP1, "a", "b", resampled)
    assert 0 < low < 0.05 < high < 0.1
    assert best(metrics, TOP1, ["a", "b"], resampled) == "a"
    text = results_table(metrics, {"top-1": TOP1}, contenders=["a", "b"], objects=resampled).loc["a", "top-1"]
    assert text.startswith("**") and "±" in text
    assert best(metrics, TOP1, ["a", "b"]) is None  # one seed, and no objects to draw


def test_the_family_of_holms_correction_is_one_column(answers, resampled):
    metrics = tidy(answers)
    columns = {metric: (metric, "all", "test") for metric in ("top1", R2)}
    table = differences(metrics, columns, combinations(OFFSETS, 2), resampled)
    assert len(table) == 6
    for _, of_column in table.groupby("metric"):
        p = np.sort(of_column["p"])  # the definition: step down, multiply by 3, 2, 1
        expected = [min(1, 3 * p[0]), min(1, max(3 * p[0], 2 * p[1])), min(1, max(3 * p[0], 2 * p[1], p[2]))]
        np.testing.assert_allclose(np.sort(of_column["p_holm"]), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.01, 0.011, 0.012], [0.03, 0.03, 0.03]),  # never below a smaller one's
        ([0.6, 0.7], [1, 1]),
        ([np.nan, 0.02, 0.03], [np.nan, 0.04, 0.04]),
        ([], []),
    ],
)
def test_holm_by_hand(p, expected):
    np.testing.assert_allclose(holm(p), expected, rtol=1e-12)


def test_holm_holds_the_probability_of_any_false_difference():
    p = np.random.default_rng(5).uniform(size=(4000, 10))
    assert np.mean(p.min(1) < 0.05) > 0.35
    assert np.mean([holm(one).min() < 0.05 for one in p]) == pytest.approx(0.05, abs=0.012)


def test_runs_on_other_objects_are_refused(sums):
    other = dict(sums["b", 0]) | {"test/objects": np.arange(OBJECTS)}
    with pytest.raises(ValueError, match=r"\('a', 0\) and \('b', 0\) .* different objects of the split 'test'"):
        Resampled({("a", 0): sums["a", 0], ("b", 0): other})


def test_a_metric_seed_or_split_without_sums_is_refused(resampled):
    with pytest.raises(ValueError, match="no sums for each object of mrr, equivariant, test"):
        resampled.values("a", SEEDS, ("mrr", "equivariant", "test"))
    with pytest.raises(ValueError, match=r"a: there are no sums for each object of the seeds \[7\]"):
        resampled.values("a", [0, 7], TOP1)
    with pytest.raises(ValueError, match="a, seed 0: there are no sums .* split 'val'"):
        resampled.values("a", SEEDS, ("top1", "all", "val"))


def test_chance_has_seeds_and_objects_of_its_own(answers, resampled):
    "A method without sums has no interval over objects: neither has its difference to another."
    chance = pd.DataFrame([("p", "chance", 0, *TOP1[1:], "top1", 0.2)], columns=list(tidy(answers, [])))
    metrics = pd.concat([tidy(answers, ["top1"]), chance])
    covers = summary(metrics, resampled).set_index("method")["covers"]
    assert covers.to_dict() == {
        "a": "seeds and objects",
        "b": "seeds and objects",
        "c": "seeds and objects",
        "chance": "",
    }
    table = results_table(metrics, {"top-1": TOP1}, objects=resampled)
    assert table.loc["chance", "top-1"] == "0.20"
    with pytest.raises(ValueError, match="1 seed"):
        difference(metrics, TOP1, "a", "chance", resampled)
