"""Search spaces and the rule by which hopeless trials are stopped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerl.studies import space
from hedgerl.studies.stopping import Stopping, at_equal_budget, check

CONFIG = {"agent": {"learning_rate": 0.01, "hidden": [32, 32], "clip": 10.0}, "reward": {"lam": 0.1}}


def test_space_reads_ranges_and_choices():
    """Behaviour: whole numbers stay whole, lists are choices, of lists too."""
    read = space.read(
        {
            "agent.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
            "agent.clip": {"low": 1, "high": 9, "step": 2},
            "agent.hidden": [[16], [32, 32]],
        }
    )
    assert str(read["agent.clip"]) == "IntDistribution(high=9, log=False, low=1, step=2)"
    assert read["agent.learning_rate"].log
    assert space.decoded({"agent.hidden": read["agent.hidden"].choices[1]}) == {"agent.hidden": [32, 32]}


@pytest.mark.parametrize(
    ("given_space", "message"),
    [
        (None, "search.space must name at least one key to vary, got none"),
        ({"a": None}, "search.space must name at least one key"),
        ([1, 2], "search.space must name at least one key"),
        ({"a": 3.0}, "search.space: a must be a list of choices or {low: .., high: ..}, got 3.0"),
        ({"a": ["only"]}, "search.space: a must have at least two choices"),
        ({"a": {"low": 2.0, "high": 1.0}}, "search.space: a: low must be below high, got 2.0 and 1.0"),
        ({"a": {"low": "x", "high": 1.0}}, "search.space: a: low must be a number, got 'x'"),
        ({"a": {"low": 0.0, "high": 1.0, "log": True}}, "search.space: a: "),
        ({"a": {"low": 0.0, "high": 1.0, "lgo": True}}, "must have the keys low, high, log, step, got 'lgo'"),
    ],
)
def test_space_that_means_nothing(given_space, message):
    """Behaviour: the key and the rule are named."""
    with pytest.raises(ValueError, match="search.space") as caught:
        space.read(given_space)
    assert message in str(caught.value)


def test_parameters_go_to_their_places():
    """Behaviour: keys of the configuration and parameters of a baseline; nothing given is changed."""
    config, hedge = space.applied(CONFIG, {"name": "tuned_band"}, {"agent.hidden": "[8]", "baseline.width": 0.2})
    assert config["agent"]["hidden"] == [8]
    assert hedge == {"name": "tuned_band", "width": 0.2}
    assert CONFIG["agent"]["hidden"] == [32, 32]
    with pytest.raises(ValueError, match=r"unknown key agent\.learning_rat; did you mean agent\.learning_rate\?"):
        space.applied(CONFIG, None, {"agent.learning_rat": 1.0})
    with pytest.raises(ValueError, match=r"baseline\.width needs a baseline"):
        space.applied(CONFIG, None, {"baseline.width": 1.0})


def test_what_a_configuration_has_begins_a_study():
    """Behaviour: values inside the space are taken, others are left to the sampler."""
    read = space.read(
        {
            "agent.learning_rate": {"low": 1e-3, "high": 1e-1},
            "agent.hidden": [[16, 16], [32, 32]],
            "agent.clip": {"low": 0.1, "high": 1.0},
        }
    )
    inside = space.inside(space.present(CONFIG, read), read)
    assert inside == {"agent.learning_rate": 0.01, "agent.hidden": "[32, 32]"}
    assert len(space.corners(read)) == 6


def test_front_rule_stops_what_is_beaten_in_everything_by_a_margin():
    """Limit: beaten in one objective alone is not hopeless, nor beaten by less than the margin."""
    rule = Stopping("front", startup=3, warmup=0.2, margin=0.1)
    rivals = [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [0.9, 0.9]]
    assert rule.hopeless([0.95, 0.95], rivals, 0.5)
    assert not rule.hopeless([0.2, 0.9], rivals, 0.5)  # on the front
    assert not rule.hopeless([0.55, 0.55], rivals, 0.5)  # behind it by less than the margin
    assert not rule.hopeless([0.95, 0.95], rivals, 0.1)  # too early
    assert not rule.hopeless([0.95, 0.95], rivals, 1.0)  # at its end
    assert not rule.hopeless([0.95, 0.95], rivals[:2], 0.5)  # too few to compare with
    assert not Stopping("none").hopeless([9.0, 9.0], rivals * 3, 0.5)


def test_median_rule():
    """Behaviour: worse than the median at equal budget, of one objective alone."""
    rule = Stopping("median", startup=3)
    assert rule.hopeless([3.1], [[1.0], [3.0], [5.0]], 0.5)
    assert not rule.hopeless([2.9], [[1.0], [3.0], [5.0]], 0.5)
    with pytest.raises(ValueError, match="stop.rule must be front or none for 2 objectives"):
        check(rule, ["risk", "cost"])
    for wrong in ({"rule": "hyperband"}, {"startup": 0}, {"warmup": 1.5}, {"margin": -1.0}):
        with pytest.raises(ValueError, match="stop"):
            Stopping(**wrong)


@given(st.integers(2, 3), st.integers(0, 2**32 - 1))
def test_front_rule_never_stops_the_front(m, seed):
    """Identity: whatever no rival beats in everything goes on, at any margin."""
    rng = np.random.default_rng(seed)
    rivals = rng.normal(size=(8, m))
    own = rng.normal(size=m)
    own[rng.integers(m)] = rivals.min() - 1.0  # better in one thing than all
    assert not Stopping("front", margin=0.0).hopeless(own.tolist(), rivals.tolist(), 0.5)


def test_equal_budget():
    """Behaviour: trials that were stopped are compared as far as they came."""
    table = at_equal_budget([[(10, [1.0]), (20, [0.5])], [], [[10, [2.0]]]])
    assert table == {10: [[1.0], [2.0]], 20: [[0.5]]}
