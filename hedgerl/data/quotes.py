"""Option quotes of one moment by expiry: time left, forward prices and discount factors from put-call parity."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hedgerl.pricing import american_implied_volatility, american_price, black_scholes, implied_volatility
from hedgerl.pricing._checks import finite

YEAR = np.timedelta64(365 * 24 * 60, "m")
MORNING_ROOTS = ("SPX", "NDX", "RUT", "VIX")  # settled at the open, 9:30, of their expiry; others at 16:00
_OPEN, _CLOSE = np.timedelta64(570, "m"), np.timedelta64(960, "m")
_NEAR = 0.1  # |log(K / F)| of the strikes whose parity is used, or what one deviation of the price reaches, if more
_ROUNDS = 8  # of reweighting: a stale pair must not move a forward price
_PAIRS = 3  # strikes with both rights that a forward price needs
_EXERCISE_ROUNDS = 3  # in which the forward price and the worth of early exercise are found from each other
_SPREAD_OF_RATES = 0.003  # standard deviation of zero rates about their mean over expiries, before parity is asked


@dataclass(frozen=True, eq=False)
class Expiry:
    """Both rights of one root and expiry at a moment, by strike. NaN where a side has no quote; a bid may be 0."""

    root: str
    date: np.datetime64
    years: float  # from the quotes to the settlement, of 365 days
    strike: np.ndarray  # (m,) increasing
    bid: np.ndarray  # (2, m): calls, puts
    ask: np.ndarray  # (2, m)
    forward: float
    forward_error: float  # standard error
    discount: float
    spot: float  # as given with the quotes; index options are quoted later than the index

    @property
    def mid(self) -> np.ndarray:
        """(2, m)."""
        return 0.5 * (self.bid + self.ask)

    @property
    def log_moneyness(self) -> np.ndarray:
        """log(K / F), (m,)."""
        return np.log(self.strike / self.forward)

    def implied(self, price: np.ndarray, is_call: np.ndarray) -> np.ndarray:
        """Black's implied volatilities (m,) of prices by strike; NaN beyond the bounds of arbitrage."""
        undiscounted = price / self.discount
        volatility: np.ndarray = np.asarray(
            implied_volatility(undiscounted, self.forward, self.strike, self.years, is_call=is_call)
        )
        return volatility


def expiries(
    chain: pd.DataFrame,
    *,
    at: str = "16:15",
    rate: float | None = None,
    morning: tuple[str, ...] = MORNING_ROOTS,
) -> list[Expiry]:
    """The expiries of a chain of one underlying and day, nearest first; without those that have settled, or whose
    strikes with both rights are fewer than three.

    chain: columns quote_date, underlying_price, root, expiry, strike, right (C, P), bid, ask. at: time of the quotes at
    the exchange. rate: per year, continuously compounded, about which discount factors are sought; None: the mean that
    parity itself shows. morning: roots that settle at 9:30.

    A forward price and a discount factor solve C - P = D (F - K) over strikes near the money, by least squares with
    weights 1 / (sum of both spreads)^2, those of outlying pairs taken down (Huber 1964). A short expiry tells hardly
    anything of its rate, so that rates are drawn towards their mean over expiries, each as far as its error is large.

    American options (column style, A) are brought to European ones first: what early exercise is worth, by the tree of
    `hedgerl.pricing.american_price` at the volatility that the mid implies and the dividend yield that the forward
    price implies, is taken off bid and ask; quotes that are worth no more than exercising now are left out. Parity
    cannot tell the rate then, which must be given. A yield stands for dividends in cash.

    Raises ValueError naming a column that is missing, where there is more than one day, and for American options
    without a rate.
    """
    if rate is not None:
        finite("rate", rate)
    needed = ("quote_date", "underlying_price", "root", "expiry", "strike", "right", "bid", "ask")
    for name in needed:
        if name not in chain.columns:
            raise ValueError(f"chain must have a column {name}, got {', '.join(map(str, chain.columns))}")
    days = chain["quote_date"].unique()
    if len(days) != 1:
        raise ValueError(f"chain must be of one quote_date, got {len(days)}")
    now = np.datetime64(pd.Timestamp(days[0]), "m") + time_of_day(at)
    groups: Any = chain.groupby(["root", "expiry"], sort=True, observed=True)
    raw = [
        found
        for (root, date), part in groups
        if (found := _sides(part, str(root), np.datetime64(pd.Timestamp(date), "D"), now, morning)) is not None
    ]
    american = "style" in chain.columns and (chain["style"] == "A").any()
    if american:
        if rate is None:
            raise ValueError("rate must be given where options are American: their parity does not tell it")
        raw = [european for item in raw if (european := _european(item, rate)) is not None]
    fits = [_parity(item) for item in raw]
    keep = [place for place, fit in enumerate(fits) if fit is not None]
    zero = np.array([-np.log(fits[place]["discount"]) / raw[place]["years"] for place in keep])
    error = np.array([fits[place]["discount_error"] / raw[place]["years"] for place in keep])
    weight = 1.0 / (error**2 + _SPREAD_OF_RATES**2)
    centre = float((weight * zero).sum() / max(weight.sum(), 1e-300)) if rate is None else rate
    result = []
    for place, own, uncertain in zip(keep, zero.tolist(), error.tolist(), strict=True):
        item = raw[place]
        share = 0.0 if american else _SPREAD_OF_RATES**2 / (_SPREAD_OF_RATES**2 + uncertain**2)
        discount = float(np.exp(-(share * own + (1.0 - share) * centre) * item["years"]))
        fit = _parity(item, discount)
        result.append(Expiry(**item, forward=fit["forward"], forward_error=fit["forward_error"], discount=discount))
    return sorted(result, key=lambda each: each.years)


def out_of_the_money(of: Expiry, bounds: float = np.inf) -> dict[str, np.ndarray]:
    """The quotes that are out of the money, by strike: strike, is_call, bid, ask, mid and volatilities of each.

    Only strikes with |log(K / F)| up to `bounds`, a bid above 0 and an ask above it. volatility_bid is NaN where the
    bid is below the least that any volatility gives.
    """
    is_call = of.strike >= of.forward
    side = np.where(is_call, 0, 1)
    rows = np.arange(of.strike.size)
    bid, ask = of.bid[side, rows], of.ask[side, rows]
    good = (bid > 0) & (ask > bid) & (np.abs(of.log_moneyness) <= bounds)
    kept = {"strike": of.strike, "is_call": is_call, "bid": bid, "ask": ask, "mid": 0.5 * (bid + ask)}
    kept |= {f"volatility{name}": of.implied(price, is_call) for name, price in _three(bid, ask).items()}
    return {name: values[good] for name, values in kept.items()}


def _three(bid: np.ndarray, ask: np.ndarray) -> Mapping[str, np.ndarray]:
    return {"": 0.5 * (bid + ask), "_bid": bid, "_ask": ask}


def time_of_day(at: str) -> np.timedelta64:
    """Minutes since midnight of a time such as 16:15. Raises ValueError for another text."""
    try:
        time = datetime.time.fromisoformat(at)
    except (TypeError, ValueError):
        raise ValueError(f"at must be a time of day such as 16:15, got {at!r}") from None
    return np.timedelta64(60 * time.hour + time.minute, "m")


def settlement(root: str, date: np.datetime64, morning: tuple[str, ...] = MORNING_ROOTS) -> np.datetime64:
    """The minute at which options of a root settle on their expiry date."""
    return date.astype("datetime64[D]").astype("datetime64[m]") + (_OPEN if root in morning else _CLOSE)


def _sides(
    part: pd.DataFrame, root: str, date: np.datetime64, now: np.datetime64, morning: tuple[str, ...]
) -> dict[str, Any] | None:
    years = float((settlement(root, date, morning) - now) / YEAR)
    if years <= 0:
        return None
    wide = part.pivot_table(index="strike", columns="right", values=["bid", "ask"], aggfunc="last")
    quotes = {
        name: np.stack(
            [
                wide[name, right].to_numpy(float) if (name, right) in wide.columns else np.full(len(wide), np.nan)
                for right in ("C", "P")
            ]
        )
        for name in ("bid", "ask")
    }
    spot = float(part["underlying_price"].iloc[-1])
    return {"root": root, "date": date, "years": years, "spot": spot} | {
        "strike": wide.index.to_numpy(float),
        **quotes,
    }


def _european(item: Mapping[str, Any], rate: float) -> dict[str, Any] | None:
    """The quotes without what early exercise is worth; None for too few pairs."""
    strike, spot, years = item["strike"], item["spot"], item["years"]
    mid = 0.5 * (item["bid"] + item["ask"])
    is_call = np.array([True, False])[:, None]
    result: dict[str, Any] = dict(item)
    for _ in range(_EXERCISE_ROUNDS):
        fit = _parity(result, float(np.exp(-rate * years)))
        if fit is None:
            return None
        terms = {"rate": rate, "dividend": rate - float(np.log(fit["forward"] / spot)) / years}
        volatility = american_implied_volatility(mid, spot, strike, years, **terms, is_call=is_call)
        known = np.isfinite(volatility)
        used = np.where(known, volatility, 1.0)
        plain = black_scholes(spot, strike, years, used, **terms, is_call=is_call).price
        worth = american_price(spot, strike, years, used, **terms, is_call=is_call) - np.asarray(plain)
        for name in ("bid", "ask"):
            result[name] = np.where(known, np.maximum(item[name] - np.maximum(worth, 0.0), 0.0), np.nan)
    return result


def _parity(item: Mapping[str, Any], discount: float | None = None) -> Any:
    """forward, discount and their standard errors (of the log of the discount) by parity; None for too few pairs."""
    strike, bid, ask = item["strike"], item["bid"], item["ask"]
    good = (ask > bid).all(axis=0) & (bid > 0).all(axis=0)
    if good.sum() < _PAIRS:
        return None
    k, gap = strike[good], 0.5 * (bid + ask)[0, good] - 0.5 * (bid + ask)[1, good]
    spread = (ask - bid)[:, good].sum(axis=0)
    forward = k[np.argmin(np.abs(gap))]
    straddle = 0.5 * (bid + ask)[:, good].sum(axis=0).min()  # about .8 deviations of the price
    near = np.abs(np.log(k / forward)) <= max(_NEAR, 1.25 * straddle / forward)
    if near.sum() < _PAIRS:
        near = np.argsort(np.abs(k - forward))[: 2 * _PAIRS]
    k, gap, spread = k[near], gap[near], spread[near]
    scale = 0.25 * spread  # a mid is off by a quarter of its spread or so
    weight: np.ndarray = 1.0 / scale**2
    design = np.stack([np.ones_like(k), forward - k], axis=1)  # gap = D (F - F0) + D (F0 - K)
    target = gap
    if discount is not None:
        design, target = design[:, :1], gap - discount * design[:, 1]

    def solved() -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        normal = (design * weight[:, None]).T @ design
        solution = np.linalg.solve(normal, design.T @ (weight * target))
        away = np.abs(target - design @ solution) / scale
        return solution, np.linalg.inv(normal), away, max(float(np.median(away)) / 0.6745, 1e-12)

    for _ in range(_ROUNDS):
        _, _, away, typical = solved()
        weight = np.minimum(1.0, 1.5 * typical / np.maximum(away, 1e-300)) / scale**2
    solution, inverse, _, typical = solved()
    covariance = inverse * typical**2
    factor = float(solution[1]) if discount is None else discount
    if not factor > 0:
        return None
    return {
        "discount": factor,
        "discount_error": float(covariance[-1, -1] ** 0.5) / factor if discount is None else 0.0,
        "forward": float(forward + solution[0] / factor),
        "forward_error": float(covariance[0, 0] ** 0.5) / factor,
    }
