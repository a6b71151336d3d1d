"""Fronts: dominance, hypervolume, measures under resampling, comparison of groups."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerl import risk
from hedgerl.evaluation.bootstrap import resamples
from hedgerl.studies.front import (
    OBJECTIVES,
    Episodes,
    attainment,
    check_objectives,
    compare_fronts,
    hypervolume,
    measure,
    non_dominated,
)

FEW = settings(max_examples=60, deadline=None)
NAMES = list(OBJECTIVES)


@st.composite
def grids(draw: st.DrawFn, axes: tuple[int, ...] = (1, 2, 3, 4, 5), most: int = 9) -> np.ndarray:
    """Points on a small grid: ties on single axes and equal points are frequent."""
    m = draw(st.sampled_from(axes))
    rows = draw(st.lists(st.tuples(*[st.integers(0, 4)] * m), min_size=1, max_size=most))
    return np.array(rows, dtype=float)


def beats(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


def cells(points: np.ndarray, side: int) -> float:
    """Hypervolume below (side, ..., side) of points on whole numbers: unit cells that some point beats, counted."""
    corners = np.array(list(itertools.product(range(side), repeat=points.shape[1])))
    return float((points[None] <= corners[:, None]).all(-1).any(1).sum())


@FEW
@given(grids())
def test_twin_non_dominated_is_the_definition(points: np.ndarray) -> None:
    """Twin: sweeps and archive against all pairs. Catches a tie on one axis that is taken for dominance or hides it."""
    expected = [not any(beats(other, point) for other in points) for point in points]
    assert non_dominated(points).tolist() == expected


def test_behaviour_of_points_that_are_not_numbers() -> None:
    """Behaviour: a diverged policy is never on a front, and hides nobody; an infinite loss is beaten, not an error."""
    points = np.array([[np.nan, 0.0], [1.0, 1.0], [np.inf, 0.5], [np.inf, 2.0], [np.nan, np.nan]])
    assert non_dominated(points).tolist() == [False, True, True, False, False]
    assert not non_dominated(np.full((3, 3), np.nan)).any()
    assert non_dominated(np.zeros((0, 2))).shape == (0,)
    assert hypervolume(points, (2.0, 3.0)) == 2.0
    with pytest.raises(ValueError, match="above minus infinity"):
        hypervolume([[-np.inf, 0.0]], (1.0, 1.0))


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_behaviour_on_many_points(m: int) -> None:
    """Behaviour: 1e5 points in seconds. Catches a quadratic path; the answer is checked against sampled points."""
    points = np.random.default_rng(m).uniform(size=(100_000, m))
    kept = non_dominated(points)
    front = points[kept]
    for i in range(0, 100_000, 5_000):
        beaten = ((front <= points[i]).all(axis=1) & (front < points[i]).any(axis=1)).any()
        assert kept[i] == (not beaten)


@FEW
@given(grids())
def test_identity_hypervolume_counts_cells(points: np.ndarray) -> None:
    """Identity: on a grid the volume is a number of cells. Catches overlaps counted twice, ties, points on the edge."""
    assert hypervolume(points, [4.0] * points.shape[1]) == pytest.approx(cells(points, 4), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_identity_hypervolume_by_inclusion_and_exclusion(m: int) -> None:
    """Identity: the union of boxes by all their intersections. Catches rounding that a grid of whole numbers hides."""
    points = np.random.default_rng(m).normal(size=(11, m))
    corner = np.full(m, 0.8)
    expected = 0.0
    for size in range(1, len(points) + 1):
        for chosen in itertools.combinations(points, size):
            expected -= (-1) ** size * float(np.prod(np.maximum(corner - np.max(chosen, axis=0), 0.0)))
    assert hypervolume(points, corner.tolist()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_statistical_hypervolume_is_the_share_of_samples(m: int) -> None:
    """Statistical: 200,000 uniform points, seed 5; the share that is beaten within 5 standard errors, at most .0056."""
    rng = np.random.default_rng(5)
    points = rng.uniform(size=(40, m)) ** 0.5
    samples = rng.uniform(size=(200_000, m))
    beaten = np.zeros(len(samples), dtype=bool)
    for point in points:
        beaten |= (point <= samples).all(axis=1)
    assert hypervolume(points, [1.0] * m) == pytest.approx(beaten.mean(), abs=5 * 0.5 / 200_000**0.5)


@pytest.mark.parametrize(("m", "n"), [(2, 300), (3, 150), (4, 40), (5, 25)])
def test_twin_hypervolume_of_optuna(m: int, n: int) -> None:
    """Twin: Optuna's, on fronts where no point is dominated, the hardest."""
    theirs = pytest.importorskip("optuna._hypervolume")
    points = np.abs(np.random.default_rng(n).normal(size=(n, m)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    corner = np.full(m, 1.1)
    assert hypervolume(points, corner.tolist()) == pytest.approx(theirs.compute_hypervolume(points, corner), rel=1e-10)


@FEW
@given(grids(most=7), st.integers(0, 2**32 - 1))
def test_identity_hypervolume_laws(points: np.ndarray, seed: int) -> None:
    """Identity: order and dominated points do not matter, a further point adds what it alone commands and never takes,
    and axes scale. Catches a sweep that depends on the order of equal coordinates."""
    rng = np.random.default_rng(seed)
    m = points.shape[1]
    points = points + rng.choice([0.0, 0.25], size=points.shape)
    corner = [4.5] * m
    volume = hypervolume(points, corner)
    assert hypervolume(rng.permutation(points), corner) == pytest.approx(volume, rel=1e-12)
    worse = points[rng.integers(len(points), size=3)] + rng.choice([0.0, 0.5], size=(3, m))
    assert hypervolume(np.vstack([worse, points]), corner) == pytest.approx(volume, rel=1e-12)
    more = np.vstack([points, rng.uniform(0.0, 5.0, size=m)])
    assert hypervolume(more, corner) >= volume - 1e-9
    assert hypervolume(more, corner) <= volume + hypervolume(more[-1:], corner) + 1e-9
    axes = rng.permutation(m)
    assert hypervolume(points[:, axes], corner) == pytest.approx(volume, rel=1e-12)
    assert hypervolume(3.0 * points - 1.0, [3.0 * 4.5 - 1.0] * m) == pytest.approx(3.0**m * volume, rel=1e-12)


def test_behaviour_points_beside_the_reference_add_nothing() -> None:
    """Behaviour: strictly better on all axes is what counts. Catches a box of negative sides, positive as a product."""
    assert hypervolume([[2.0, 2.0], [1.0, 0.0], [0.0, 1.0], [3.0, -9.0]], (1.0, 1.0)) == 0.0
    assert hypervolume(np.zeros((0, 3)), (1.0, 1.0, 1.0)) == 0.0
    assert hypervolume([[0.25], [0.5]], (1.0,)) == 0.75


@FEW
@given(grids(axes=(2,)))
def test_identity_area_over_the_staircase_is_the_hypervolume(points: np.ndarray) -> None:
    """Identity: the attainment line with its reference encloses the hypervolume. Catches corners on the wrong side."""
    line = attainment(points, (4.0, 4.0))
    loop = np.vstack([line, [[4.0, 4.0]]]) if len(line) else np.zeros((1, 2))
    x, y = loop.T
    area = 0.5 * abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()))
    assert area == pytest.approx(hypervolume(points, (4.0, 4.0)), abs=1e-12)
    whole = attainment(points)
    assert (np.diff(whole[:, 0]) >= 0.0).all()
    assert (np.diff(whole[:, 1]) <= 0.0).all()
    assert {tuple(point) for point in points[non_dominated(points)]} <= {tuple(point) for point in whole}


def test_errors_of_fronts() -> None:
    """Behaviour: a mistake names the argument, the rule and the value."""
    with pytest.raises(ValueError, match=r"values must be \(points, axes\) with 1 to 5 axes, got shape \(2, 6\)"):
        non_dominated(np.zeros((2, 6)))
    with pytest.raises(ValueError, match=r"reference must have a number for each of the 2 axes, got \[1.0\]"):
        hypervolume([[0.0, 0.0]], [1.0])
    with pytest.raises(ValueError, match="reference must be a finite number, got nan"):
        hypervolume([[0.0, 0.0]], [1.0, float("nan")])
    with pytest.raises(ValueError, match="values must have two axes, got 3"):
        attainment([[0.0, 0.0, 0.0]])


# Measures


def episodes(n: int = 57, policies: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    unhedged = rng.standard_t(4, n) * 3.0 + 1.0
    pnl = unhedged * rng.uniform(0.1, 1.0, (policies, 1)) + rng.normal(size=(policies, n)) - 5.0
    return pnl, np.abs(rng.normal(size=(policies, n))), unhedged


def plain(pnl: np.ndarray, cost: np.ndarray, unhedged: np.ndarray) -> np.ndarray:
    """Every objective from hedgerl.risk, policy by policy."""
    s = unhedged.std(ddof=1)
    rows = []
    for x, c in zip(pnl, cost, strict=True):
        values = {
            "risk": x.std(ddof=1),
            "semi_deviation": risk.semi_deviation(x),
            "tail": risk.cvar(x, 0.95),
            "cvar_99": risk.cvar(x, 0.99),
            "entropic": risk.entropic_risk(x, 1.0 / s),
            "mean_loss": -x.mean(),
            "mean_std": -x.mean() + 1.5 * x.std(ddof=1),
            "cost": c.mean(),
        }
        rows.append([values[name] / s for name in NAMES])
    return np.array(rows)


@pytest.mark.parametrize("n", [2, 19, 20, 57, 333])
def test_twin_measures_are_those_of_risk(n: int) -> None:
    """Twin: sums over all policies at once against hedgerl.risk, with fractional tails (5 % of 57 is 2.85)."""
    given = episodes(n)
    found = np.stack([measure(*given, [name])[:, 0] for name in NAMES], axis=1)
    np.testing.assert_allclose(found, plain(*given), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [57, 400])
def test_twin_resampled_measures_are_those_of_the_resample(n: int) -> None:
    """Twin: counts against the resampled arrays themselves. Catches a unit that is not resampled, and tails whose
    boundary outcome is drawn several times."""
    pnl, cost, unhedged = episodes(n)
    prepared = Episodes(pnl, cost, unhedged)
    draws, counts = next(resamples(n, 40, 3))
    first, second = NAMES[:5], NAMES[5:]
    found = np.concatenate([prepared.measure(first, counts), prepared.measure(second, counts)], axis=2)
    expected = [plain(pnl[:, row], cost[:, row], unhedged[row]) for row in draws]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


def test_behaviour_an_outlier_that_is_not_drawn_does_not_underflow() -> None:
    """Behaviour: entropic risk of resamples without the worst episode, 5,000 deviations away. Catches a shift by the
    worst of all episodes, which leaves log 0."""
    pnl, cost, unhedged = episodes(60)
    pnl[:, 7] = -5000.0 * unhedged.std()
    counts = np.ones((1, 60))
    counts[0, 7], counts[0, 8] = 0.0, 2.0
    drawn = np.delete(np.append(np.arange(60), 8), 7)
    found = Episodes(pnl, cost, unhedged).measure(["entropic"], counts)[0, :, 0]
    s = unhedged[drawn].std(ddof=1)
    np.testing.assert_allclose(found, risk.entropic_risk(pnl[:, drawn], 1.0 / s) / s, rtol=1e-12)


def test_identity_measures_do_not_depend_on_money() -> None:
    """Identity: cents or dollars give the same numbers. Catches an aversion per unit of money."""
    pnl, cost, unhedged = episodes()
    for names in (NAMES[:4], NAMES[4:]):
        np.testing.assert_allclose(
            measure(100 * pnl, 100 * cost, 100 * unhedged, names), measure(pnl, cost, unhedged, names), rtol=1e-10
        )


def test_behaviour_no_hedge_and_diverged_policies() -> None:
    """Behaviour: no hedge has risk 1 and cost 0 exactly, a policy with one NaN or infinite episode NaN everywhere."""
    pnl, cost, unhedged = episodes()
    pnl[0], cost[0] = unhedged, 0.0
    pnl[1, 5], cost[2, 5] = np.nan, np.inf
    values = measure(pnl, cost, unhedged, ["risk", "cost", "tail", "entropic"])
    assert values[0, 0] == pytest.approx(1.0, rel=1e-12)
    assert values[0, 1] == 0.0
    assert np.isnan(values[1:3]).all()
    assert np.isfinite(values[3]).all()


def test_errors_of_measures() -> None:
    """Behaviour: a mistake names the argument, the rule and the value."""
    pnl, cost, unhedged = episodes()
    with pytest.raises(ValueError, match="objectives must be among risk, .*, got 'tails'; the nearest is 'tail'"):
        check_objectives(["risk", "tails"])
    with pytest.raises(ValueError, match="objectives must be 1 to 5 different ones, got risk, risk"):
        check_objectives(["risk", "risk"])
    with pytest.raises(ValueError, match="objectives must be 2 to 5 different ones, got cost"):
        check_objectives("cost", least=2)
    with pytest.raises(ValueError, match="objectives must be 1 to 5 different ones, got none"):
        check_objectives([])
    with pytest.raises(ValueError, match="unhedged must vary: .*, got 0; every episode made 0.1"):
        Episodes(pnl, cost, np.full(57, 0.1))
    with pytest.raises(ValueError, match="unhedged must be finite"):
        Episodes(pnl, cost, np.where(np.arange(57) == 3, np.nan, unhedged))
    with pytest.raises(ValueError, match=r"pnl must be \(policies, 57 episodes\), got shape \(4, 50\)"):
        Episodes(pnl[:, :50], cost, unhedged)
    with pytest.raises(ValueError, match="of the same policies"):
        Episodes(pnl[:3], cost, unhedged)
    with pytest.raises(ValueError, match="at least two episodes"):
        Episodes(pnl[:, :1], cost[:, :1], unhedged[:1])


# Comparison


def test_twin_comparison_is_a_plain_loop() -> None:
    """Twin: every resample measured, its fronts determined, its volumes taken, one at a time."""
    pnl, cost, unhedged = episodes(120, 9)
    names, corner = ("risk", "tail", "cost"), (1.0, 3.5, 0.5)
    groups = {"a": [0, 1, 2, 3], "b": [4, 5, 6], "c": [3, 7]}
    found = compare_fronts(pnl, cost, unhedged, groups, names, reference=corner, n_resamples=60, confidence=0.9, seed=4)
    draws = np.concatenate([rows for rows, _ in resamples(120, 60, 4)])
    columns = [NAMES.index(name) for name in names]
    values = np.array([plain(pnl[:, row], cost[:, row], unhedged[row])[:, columns] for row in draws])
    volumes = {group: np.array([hypervolume(each[rows], corner) for each in values]) for group, rows in groups.items()}
    for group, drawn in volumes.items():
        low, high = np.quantile(drawn, [0.05, 0.95])
        whole = hypervolume(measure(pnl, cost, unhedged, names)[groups[group]], corner)
        np.testing.assert_allclose(
            found.hypervolume[group], [whole, low, high, drawn.mean() - whole], rtol=1e-8, atol=1e-10
        )
    for group in ("b", "c"):
        low, high = np.quantile(volumes["a"] - volumes[group], [0.05, 0.95])
        np.testing.assert_allclose(found.difference[group][1:3], [low, high], rtol=1e-8, atol=1e-10)
    assert set(found.standing) == {4, 5, 6, 7, 8}
    for policy, standing in found.standing.items():
        share = np.mean([any((each[rival] <= each[policy]).all() for rival in groups["a"]) for each in values])
        assert standing.dominated == pytest.approx(share)
    np.testing.assert_allclose(found.low, np.quantile(values, 0.05, axis=0), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.high, np.quantile(values, 0.95, axis=0), rtol=1e-8, atol=1e-10)


def made(risks: list[float], costs: list[float], n: int = 400, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Policies that keep a part of one common risk, at costs that do not vary."""
    z = np.random.default_rng(seed).normal(size=n)
    z /= z.std(ddof=1)
    return np.outer(risks, z), np.repeat(np.array(costs)[:, None], n, axis=1), z


def test_behaviour_verdicts() -> None:
    """Behaviour: behind, beside, ahead of the first group's front, or without numbers; where all share one noise the
    resamples agree. Catches a policy that beats only a dominated member and is called ahead."""
    risks = [0.5, 0.3, 0.6, 0.55, 0.4, 0.45, 0.3, 0.55, np.nan]
    costs = [0.1, 0.2, 0.3, 0.25, 0.15, 0.1, 0.2, 0.05, 0.1]
    given = made(risks, costs)
    found = compare_fronts(*given, {"learned": [0, 1, 2], "rest": [3]}, reference=(1.0, 1.0), n_resamples=50)
    verdicts = {policy: (each.verdict, each.dominated, each.ahead) for policy, each in found.standing.items()}
    assert verdicts[3] == ("dominated", 1.0, 0.0)  # though it beats policy 2, which 0 and 1 beat as well
    assert verdicts[4] == ("on", 0.0, 0.0)
    assert verdicts[5] == ("ahead", 0.0, 1.0)
    assert verdicts[6] == ("on", 1.0, 0.0)  # the same as policy 1
    assert verdicts[7] == ("on", 0.0, 0.0)
    assert verdicts[8][0] == "undefined"
    assert np.isnan(verdicts[8][1])
    assert found.on_front.tolist() == [False, True, False, False, True, True, True, True, False]
    assert found.hypervolume["learned"].value == pytest.approx(0.5 * 0.9 + 0.2 * 0.8)
    assert found.difference["rest"].value == pytest.approx(0.61 - 0.45 * 0.75)


def test_behaviour_copies_of_a_policy_tie_in_every_resample() -> None:
    """Behaviour: equal policies are dominated weakly in all resamples, wherever they stand in the arrays. Catches sums
    that differ in the last digit from column to column of a matrix product."""
    pnl, cost, unhedged = episodes(997, 23)
    pnl, cost = np.vstack([pnl, pnl[::-1]]), np.vstack([cost, cost[::-1]])
    for names in (("risk", "cost"), ("tail", "entropic", "cost"), ("semi_deviation", "mean_loss", "cost")):
        corner = [9.0] * len(names)
        found = compare_fronts(
            pnl, cost, unhedged, {"a": range(23), "b": range(23, 46)}, names, reference=corner, n_resamples=30
        )
        assert all(each.dominated == 1.0 and each.ahead == 0.0 for each in found.standing.values())
        assert found.difference["b"][:3] == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


def test_identity_seed_and_pairing() -> None:
    """Identity: a seed gives one answer; what befalls both groups cancels in their difference."""
    given = made([0.5, 0.52], [0.1, 0.1], 300)
    noisy = (given[0] + np.random.default_rng(1).normal(size=300), *given[1:])
    first, again, other = (
        compare_fronts(*noisy, {"a": [0], "b": [1]}, reference=(5.0, 1.0), n_resamples=100, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first.to_dict() == again.to_dict()
    assert first.to_dict() != other.to_dict()
    width, alone = (each.high - each.low for each in (first.difference["b"], first.hypervolume["a"]))
    assert width < 0.2 * alone


def test_behaviour_where_a_resample_is_not_defined() -> None:
    """Behaviour: with two episodes half of all resamples draw one of them twice and have no unit. Catches intervals
    made of the others without a word."""
    found = compare_fronts(
        [[1.0, -1.0], [0.5, -0.5]],
        np.zeros((2, 2)),
        [2.0, -2.0],
        {"a": [0], "b": [1]},
        reference=(1.0, 1.0),
        n_resamples=50,
    )
    assert found.values.tolist() == [[0.5, 0.0], [0.25, 0.0]]
    assert found.difference["b"].value == pytest.approx(-0.25)
    assert np.isnan(found.difference["b"][1:]).all()
    assert np.isnan(found.low).all()
    assert found.standing[1].verdict == "ahead"
    assert np.isnan(found.standing[1].ahead)


def test_behaviour_a_group_without_numbers_commands_nothing() -> None:
    """Behaviour: all of a group diverged: volume 0, and no policy is called dominated by it or ahead of it."""
    pnl, cost, unhedged = made([0.5, 0.3], [0.1, 0.1])
    pnl[0, 0] = np.inf
    found = compare_fronts(pnl, cost, unhedged, {"a": [0], "b": [1]}, reference=(1.0, 1.0), n_resamples=20)
    assert found.hypervolume["a"] == (0.0, 0.0, 0.0, 0.0)
    assert found.standing[1].verdict == "undefined"


def test_errors_of_comparisons() -> None:
    """Behaviour: a mistake names the argument, the rule and the value."""
    given = made([0.5, 0.3], [0.1, 0.1])
    with pytest.raises(ValueError, match="groups must name at least one"):
        compare_fronts(*given, {}, reference=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"policies from 0 to 1, got \[2\] for 'a'"):
        compare_fronts(*given, {"a": [2]}, reference=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"policies from 0 to 1, got \[\] for 'b'"):
        compare_fronts(*given, {"a": [0], "b": []}, reference=(1.0, 1.0))
    with pytest.raises(ValueError, match="reference must have a number for each of the 2 axes"):
        compare_fronts(*given, {"a": [0]}, reference=(1.0,))
    with pytest.raises(ValueError, match="confidence must lie in"):
        compare_fronts(*given, {"a": [0]}, reference=(1.0, 1.0), confidence=95)


@pytest.mark.slow
def test_statistical_coverage_of_a_difference_of_hypervolumes() -> None:
    """Statistical: 150 samples of 250 episodes (seeds [23, k]) of normal policies of known risk and cost, fronts of
    three against two with one dominated policy each: the 95 % interval of the difference holds the truth in 95 %, less
    1.5 % that a percentile bootstrap of such samples loses, within 4 standard errors (.02 each)."""
    risks, costs = np.array([0.5, 0.35, 0.6, 0.45, 0.4]), np.array([0.05, 0.12, 0.2, 0.06, 0.3])
    groups = {"a": [0, 1, 2], "b": [3, 4]}
    corner = (1.0, 0.4)
    truth = np.column_stack([risks, costs])
    expected = hypervolume(truth[groups["a"]], corner) - hypervolume(truth[groups["b"]], corner)
    held = 0
    for experiment in range(150):
        rng = np.random.default_rng([23, experiment])
        z = rng.normal(size=250)
        own = rng.normal(size=(5, 250))
        pnl = risks[:, None] * (0.6 * z + 0.8 * own)
        cost = costs[:, None] * (1.0 + 0.3 * rng.normal(size=(5, 250)))
        found = compare_fronts(pnl, cost, z, groups, reference=corner, n_resamples=200, seed=experiment)
        held += found.difference["b"].low <= expected <= found.difference["b"].high
    assert held / 150 == pytest.approx(0.935, abs=4 * 0.02)
