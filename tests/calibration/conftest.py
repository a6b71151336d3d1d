"""Chains of which the model is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest

from hedgerl.calibration import Pricer, Slice
from hedgerl.data.quotes import settlement
from hedgerl.pricing import black_scholes

DAY = pd.Timestamp("2019-05-24")  # a Friday
RATE, DIVIDEND, SPOT = 0.03, 0.01, 2800.0


@pytest.fixture(scope="session")
def blank() -> Callable[..., list[Slice]]:
    """Slices of these days to expiry without quotes: strikes from -3 to 2 deviations of a volatility of 20 %."""

    def make(days: Sequence[float], strikes: int = 15) -> list[Slice]:
        result = []
        for ahead in days:
            years = ahead / 365.0
            k = np.linspace(-3.0, 2.0, strikes) * 0.2 * years**0.5
            flat = np.full(strikes, 0.2)
            date = np.datetime64("2019-05-24") + np.timedelta64(int(ahead), "D")
            result.append(Slice("SPX", date, years, 100.0, 1.0, k, flat, flat, flat))
        return result

    return make


@pytest.fixture(scope="session")
def quoted() -> Callable[..., list[Slice]]:
    """Slices with quotes about volatilities (n,): spreads wider in the wings, mids off by half of half a spread."""

    def make(slices: Sequence[Slice], volatility: np.ndarray, seed: int, half: float = 0.002) -> list[Slice]:
        rng = np.random.default_rng(seed)
        result, first = [], 0
        for each in slices:
            own = half * (1.0 + np.abs(each.k) / (0.4 * each.years**0.5))
            mid = volatility[first : first + each.k.size] + 0.5 * own * rng.normal(size=own.size)
            first += each.k.size
            result.append(Slice(each.root, each.date, each.years, each.forward, 1.0, each.k, mid - own, mid, mid + own))
        return result

    return make


@pytest.fixture(scope="session")
def chain() -> Callable[..., pd.DataFrame]:
    """A chain of Fridays, `weeks` ahead, with the volatilities of a pricer made from the slices of the same strikes."""

    def make(
        pricer: Callable[[Sequence[Slice]], Pricer],
        point: np.ndarray,
        weeks: Sequence[int] = (2, 4, 8, 17, 30, 43),
        noise: float = 0.25,
        seed: int = 1,
    ) -> pd.DataFrame:
        now = np.datetime64(DAY, "m") + np.timedelta64(16 * 60 + 15, "m")
        slices = []
        for week in weeks:
            date = np.datetime64(DAY, "D") + np.timedelta64(7 * week, "D")
            root = "SPX" if 15 <= pd.Timestamp(date).day <= 21 else "SPXW"
            years = float((settlement(root, date) - now) / np.timedelta64(525_600, "m"))
            forward = SPOT * np.exp((RATE - DIVIDEND) * years)
            low, high = np.exp(np.array([-3.5, 2.2]) * 0.2 * years**0.5) * forward
            strike = np.arange(5 * round(low / 5), high, 5 * max(1, round((high - low) / 200)))
            k, flat = np.log(strike / forward), np.full(strike.size, 0.2)
            slices.append(Slice(root, date, years, forward, np.exp(-RATE * years), k, flat, flat, flat))
        volatility, first = pricer(slices)(point)[0], 0
        rng = np.random.default_rng(seed)
        frames = []
        for each in slices:
            own = volatility[first : first + each.k.size]
            first += each.k.size
            strike = each.forward * np.exp(each.k)
            carry = {"rate": RATE, "dividend": DIVIDEND}
            vega = black_scholes(SPOT, strike, each.years, own, **carry).vega
            for right in "CP":
                price = black_scholes(SPOT, strike, each.years, own, **carry, is_call=right == "C").price
                half = 0.05 + 0.001 * vega
                mid = price + noise * half * rng.normal(size=strike.size)
                frame = pd.DataFrame(
                    {"strike": np.round(strike, 6), "bid": np.maximum(mid - half, 0.0), "ask": mid + half}
                )
                frames.append(frame.assign(right=right, root=each.root, expiry=pd.Timestamp(each.date)))
        return pd.concat(frames).assign(quote_date=DAY, underlying_price=SPOT, underlying="SPX")

    return make
