"""Stores of option quotes: written by hand, or simulated in Heston's model with spreads and holes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hedgerl.data.chains import import_files
from hedgerl.data.chains.trading_days import trading_days
from hedgerl.pricing import heston
from hedgerl.sim import Heston, QuotedHistory

MODEL = Heston(kappa=2.0, theta=0.04, sigma=0.5, rho=-0.7, v0=0.04, rate=0.03, dividend=0.01, drift=0.03)
Made = Callable[..., QuotedHistory]


def write_store(rows: pd.DataFrame, folder: Path) -> Path:
    """Imports quotes, columns as in the store, into a store below a folder."""
    file = folder / "quotes.csv"
    rows.to_csv(file, index=False)
    import_files("generic", [file], folder / "store")
    return folder / "store"


@pytest.fixture
def by_hand(tmp_path: Path) -> Made:
    """A source of quotes (day, spot, expiry, strike, right, bid, ask) on XYZ, American unless style says otherwise."""

    def make(quotes: list[tuple[Any, ...]], style: str = "A", **options: Any) -> QuotedHistory:
        names = ["quote_date", "underlying_price", "expiry", "strike", "right", "bid", "ask"]
        rows = pd.DataFrame(quotes, columns=names).assign(underlying="XYZ", root="XYZ", style=style)
        return QuotedHistory(store=str(write_store(rows, tmp_path)), underlying="XYZ", **options)

    return make


def heston_rows(n_days: int = 36, seed: int = 3, holes: float = 0.15) -> pd.DataFrame:
    """Daily chains along one path: Fridays up to eight weeks away, strikes within 10 % of the spot, both rights.

    Mids are Heston's prices, half the spread a cent or 1 % of them; a share of `holes` of the quotes is missing.
    """
    days = trading_days(np.datetime64("2019-03-04"), np.datetime64("2019-07-31"))[: n_days + 1]
    paths = MODEL.simulate(1, n_days, n_days / 252, seed=seed, backend="numpy", dtype="float64")
    rng = np.random.default_rng(seed)
    frames = []
    for step, day in enumerate(days):
        spot, variance = 20.0 * float(paths.spot[step, 0]), float(paths.variance[step, 0])
        friday = day + np.timedelta64((4 - (int(day.astype(int)) + 3) % 7) % 7, "D")
        for week in (0, 1, 2, 3, 4, 6, 8):
            expiry = friday + np.timedelta64(7 * week, "D")
            years = float((expiry - day).astype(int)) / 365.0
            if years <= 0 or not np.is_busday(expiry, holidays=["2019-04-19"]):
                continue
            strike = np.arange(np.ceil(0.9 * spot / 40.0) * 40.0, 1.1 * spot, 40.0)
            for right in "CP":
                price = np.asarray(
                    heston(
                        spot, strike, years, kappa=MODEL.kappa, theta=MODEL.theta, sigma=MODEL.sigma, rho=MODEL.rho,
                        variance=variance, rate=MODEL.rate, dividend=MODEL.dividend, is_call=right == "C",
                    ).price
                )  # fmt: skip
                half = np.maximum(0.01 * price, 0.01)
                frame = pd.DataFrame({"strike": strike, "bid": np.maximum(price - half, 0.0), "ask": price + half})
                frame = frame.assign(quote_date=day, expiry=expiry, right=right, underlying_price=spot)
                frames.append(frame[rng.random(strike.size) >= holes])
    return pd.concat(frames).assign(underlying="XYZ", root="XYZ", style="E")


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `heston_rows`."""
    return write_store(heston_rows(), tmp_path_factory.mktemp("heston"))


@pytest.fixture(scope="session")
def source(simulated: Path) -> QuotedHistory:
    """Its market."""
    return QuotedHistory(store=str(simulated), underlying="XYZ", rate=0.03, dividend=0.01)
