"""Fits: what made the quotes is found again, and errors are honest."""

from __future__ import annotations

import hydra.utils
import numpy as np
import pytest

from hedgerl.calibration import HestonPricer, RoughBergomiPricer, SabrPricer, profile, solve
from hedgerl.calibration.chain import Carry
from hedgerl.calibration.fit import LOSS, errors
from hedgerl.calibration.models import (
    MODELS,
    Settings,
    configuration,
    identified,
    model,
    monte_carlo_errors,
    profile_values,
)

HESTON = np.array([2.5, 0.06, 0.9, -0.72, 0.03])
ROUGH = np.array([0.09, 1.8, -0.8, 0.03, 0.035, 0.04, 0.045, 0.04])
SABR = np.array([0.2, 1.6, -0.7])


def test_heston_without_noise(blank, quoted):
    """Identity: from its own starting points, all of them, the search ends where the quotes were made."""
    slices = blank([14, 60, 200, 390])
    fit = solve(HestonPricer(slices), quoted(slices, HestonPricer(slices)(HESTON)[0], 0, half=1e-9))
    np.testing.assert_allclose(fit.point, HESTON, rtol=1e-3)
    assert fit.inside > 0.0
    assert fit.rmse < 1e-6
    np.testing.assert_allclose(fit.losses, min(fit.losses), rtol=0, atol=1e-3)


def test_heston_is_recovered_within_its_errors(blank, quoted):
    """Statistical: over 10 draws of noisy quotes (the seeds are those of the draws) no parameter is more than 4 stated
    errors off, and their scores have a deviation between .5 and 1.5. Catches errors that are too small, or too large to
    be of use; over 40 draws the deviations were .8 to .9, and one of 200 scores lay beyond 3."""
    slices = blank([14, 35, 70, 120, 200, 300, 390])
    volatility = HestonPricer(slices)(HESTON)[0]
    scores = []
    for seed in range(10):
        quotes = quoted(slices, volatility, seed)
        fit = solve(HestonPricer(quotes), quotes, starts=[HESTON])
        scores.append((fit.point - HESTON) / fit.error)
    assert np.abs(scores).max() < 4.0
    assert 0.5 < np.std(scores) < 1.5


@pytest.mark.slow
def test_rough_bergomi_is_recovered_within_its_errors(blank, quoted):
    """Statistical: 2 draws of quotes about a chain of 65,536 paths of another seed, each fitted with noise of its own,
    from the pricer's own start: within 3 errors, of quotes and Monte Carlo together. Over 8 draws the deviations of the
    scores were .4 to 1.0."""
    slices = blank([14, 35, 70, 160, 350], strikes=11)
    volatility = RoughBergomiPricer(slices, n_paths=65_536, seed=99)(ROUGH)[0]
    settings, kind, noise = Settings(n_paths=8192), MODELS["rbergomi"], {}
    for seed in range(2):
        quotes = quoted(slices, volatility, seed)
        fit = solve(kind.make(quotes, settings, 10 + seed), quotes)
        noise = noise or monte_carlo_errors(kind, fit, settings)
        error = np.hypot(fit.error, list(noise.values()))
        assert (np.abs(fit.point - ROUGH) < 3.0 * error).all()
    assert 0 < noise["hurst"] < 0.02


def test_sabr_is_recovered_within_its_errors(blank, quoted):
    """Statistical: as above. Over 8 draws the deviations of the scores were .6 to 1.1."""
    slices = blank([14, 30, 60])
    volatility = SabrPricer(slices, n_paths=65_536, seed=99)(SABR)[0]
    settings, kind, noise = Settings(n_paths=8192), MODELS["sabr"], {}
    for seed in range(2):
        quotes = quoted(slices, volatility, seed)
        fit = solve(kind.make(quotes, settings, 10 + seed), quotes)
        noise = noise or monte_carlo_errors(kind, fit, settings)
        assert (np.abs(fit.point - SABR) < 3.0 * np.hypot(fit.error, list(noise.values()))).all()


def test_a_wrong_quote_hardly_moves_the_fit(blank, quoted):
    """Behaviour: one mid that is 20 points off moves no parameter by a standard error. Catches least squares."""
    slices = blank([14, 60, 200, 390])
    quotes = quoted(slices, HestonPricer(slices)(HESTON)[0], 1)
    clean = solve(HestonPricer(quotes), quotes, starts=[HESTON])
    quotes[1].mid[7] += 0.2
    quotes[1].ask[7] += 0.2
    quotes[1].bid[7] += 0.2
    spoiled = solve(HestonPricer(quotes), quotes, starts=[HESTON])
    assert (np.abs(spoiled.point - clean.point) < spoiled.error).all()


def test_held_parameters_and_bounds(blank, quoted):
    """Behaviour: what is held stays and has no error; what ends at a bound says so and has none."""
    slices = blank([14, 60, 200, 390])
    quotes = quoted(slices, HestonPricer(slices)(HESTON)[0], 1)
    fit = solve(HestonPricer(quotes), quotes, hold={"kappa": 4.0})
    assert fit.values["kappa"] == 4.0
    assert np.isnan(fit.errors["kappa"])
    assert np.isfinite(fit.errors["theta"])
    narrow = quoted(slices[:2], np.full(30, 0.2), 1)
    flat = solve(SabrPricer(narrow, n_paths=2048), narrow, hold={"volatility": 0.2, "rho": 0.0}, steps=40)
    assert "volvol" in flat.at_bound
    assert np.isnan(flat.errors["volvol"])
    with pytest.raises(ValueError, match="hold must name a parameter of the model .* got kapa"):
        solve(HestonPricer(quotes), quotes, hold={"kapa": 4.0})
    with pytest.raises(ValueError, match=r"rho must lie in \[-0.995, 0.995\], got -2"):
        solve(HestonPricer(quotes), quotes, hold={"rho": -2.0})


def test_a_profile_is_least_at_the_fit(blank, quoted):
    """Behaviour: held elsewhere, the loss is larger, more so farther away."""
    slices = blank([14, 60, 200, 390])
    quotes = quoted(slices, HestonPricer(slices)(HESTON)[0], 1)
    fit = solve(HestonPricer(quotes), quotes, starts=[HESTON])
    found = profile(fit, "kappa", profile_values(MODELS["heston"], fit))
    assert found.loss.argmin() == 2
    assert (np.diff(found.loss[:3]) < 0).all()
    assert (np.diff(found.loss[2:]) > 0).all()
    np.testing.assert_allclose(found.loss[2], fit.loss, rtol=1e-3)


def test_errors_of_a_linear_fit():
    """Identity: with independent errors both kinds are those of least squares; where whole clusters are off, the
    second is that of a mean of clusters. 400 quotes in 20 clusters, residuals small beside LOSS."""
    rng = np.random.default_rng(1)
    cluster = np.repeat(np.arange(20), 20)
    design = np.ones((400, 1))
    alone = 0.05 * LOSS * rng.normal(size=400)
    together = 0.05 * LOSS * rng.normal(size=20)[cluster]
    no_curve = np.zeros(1, dtype=bool)
    for residual in (alone, together):
        residual -= residual.mean()
        covariance, by_cluster = errors(design, residual, cluster, no_curve)
        assert covariance[0, 0] ** 0.5 == pytest.approx(residual.std() / 20.0, rel=0.05)
        means = residual.reshape(20, 20).mean(axis=1)
        assert by_cluster[0] == pytest.approx(means.std(ddof=1) / 20**0.5, rel=0.08)
    assert np.isnan(errors(design, alone, np.minimum(cluster, 1), no_curve)[1]).all()


def test_errors_with_levels_of_their_own():
    """Identity: a level for each cluster leaves the slope to what is within clusters. Catches a level's own cluster
    left out, where nothing tells it."""
    rng = np.random.default_rng(2)
    cluster = np.repeat(np.arange(8), 10)
    x = rng.normal(size=80)
    design = np.column_stack([x, np.eye(8)[cluster]])
    residual = 0.05 * LOSS * rng.normal(size=80)
    residual -= design @ np.linalg.lstsq(design, residual, rcond=None)[0]
    covariance, by_cluster = errors(design, residual, cluster, np.arange(9) > 0)
    within = x - np.array([x[cluster == each].mean() for each in range(8)])[cluster]
    classical = residual.std() / np.sqrt(within @ within)
    assert covariance[0, 0] ** 0.5 == pytest.approx(classical, rel=0.4)
    assert by_cluster[0] == pytest.approx(classical, rel=0.6)
    assert np.isnan(by_cluster[1:]).all()


def test_what_one_expiry_cannot_tell(blank):
    """Behaviour: refused, with the flag that helps; what is held is not asked for."""
    one, two = blank([30]), blank([30, 60])
    with pytest.raises(
        ValueError, match="does not identify kappa and theta; hold them .--hold kappa=VALUE --hold theta="
    ):
        identified(MODELS["heston"], one, {})
    with pytest.raises(ValueError, match="does not identify hurst; hold it"):
        identified(MODELS["rbergomi"], one, {})
    identified(MODELS["rbergomi"], one, {"hurst": 0.1})
    identified(MODELS["sabr"], one, {})
    identified(MODELS["heston"], two, {})
    with pytest.raises(ValueError, match="5 quotes are too few for 5 parameters"):
        identified(MODELS["heston"], [*blank([30], 3), *blank([60], 2)], {})
    with pytest.raises(ValueError, match='market "hestn" cannot be calibrated; did you mean heston'):
        model("hestn")


def test_a_configuration_builds_the_model_that_was_fitted(blank, quoted):
    """Identity: the forward variance that the configuration's pairs of points draw is the fitted level between expiries
    and beyond the last, and the constants are the chain's. Catches levels that are shifted by an expiry."""
    slices = blank([14, 35, 70])
    quotes = quoted(slices, np.full(45, 0.2), 1)
    pricer = RoughBergomiPricer(quotes, n_paths=2048)
    fit = solve(pricer, quotes, hold={"hurst": 0.1}, steps=3)
    made = hydra.utils.instantiate(
        configuration(MODELS["rbergomi"], fit, Carry(0.03, 0.01, 2800.0, 0.0)), _convert_="all"
    )
    levels = [fit.values[f"forward_variance_{place}"] for place in (1, 2, 3)]
    for low, high, level in zip((0.0, 14, 35), (14, 35, 70), levels, strict=True):
        inside = np.array([low + 0.01, 0.5 * (low + high), high - 0.01]) / 365.0
        np.testing.assert_allclose(made.initial_curve(inside), level, rtol=1e-5)
    np.testing.assert_allclose(made.initial_curve(np.array([2.0])), levels[-1], rtol=1e-5)
    assert (made.spot, made.rate, made.dividend, made.hurst) == (100.0, 0.03, 0.01, 0.1)
