"""`hedgerl backtest`: an at-the-money call sold every month and hedged every day, on simulated paths and on history.

Read from the top down: simulate (or load), mark, roll out, measure, report.
"""

from __future__ import annotations

import functools
import json
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

import hedgerl
from hedgerl.baselines import Delta, NoHedge
from hedgerl.data import sp500
from hedgerl.evaluation import Summary, summarise
from hedgerl.execution import Episode, Hedge, sell_and_hedge
from hedgerl.pricing import Greeks, Option, black_scholes
from hedgerl.pricing._checks import in_interval, non_negative, positive, whole_number
from hedgerl.sim import Model
from hedgerl.sim.backend import to_numpy

HEDGES: dict[str, Hedge] = {"none": NoHedge(), "delta": Delta()}


@dataclass
class HistoryConfig:
    """The history that is replayed; the YAML beside it says why."""

    enabled: bool = True
    volatility_span_days: int = 21

    def __post_init__(self) -> None:
        whole_number("history.volatility_span_days", self.volatility_span_days)


@dataclass
class BacktestConfig:
    """Every key of conf/backtest.yaml, with its type; units and reasons stand there."""

    market: Any = MISSING
    n_paths: int = 20_000
    n_steps: int = 21
    maturity: float = 21 / 252
    moneyness: float = 1.0
    half_spread_bps: float = 2.0
    confidence: float = 0.95
    seed: int | None = 1
    backend: str = "auto"
    history: HistoryConfig = field(default_factory=HistoryConfig)

    def __post_init__(self) -> None:
        whole_number("n_paths", self.n_paths, minimum=2)
        whole_number("n_steps", self.n_steps)
        positive("maturity", self.maturity)
        positive("moneyness", self.moneyness)
        non_negative("half_spread_bps", self.half_spread_bps)
        in_interval("confidence", self.confidence, 0.0, 1.0)


@dataclass(frozen=True)
class Outcome:
    """One hedge on one market, per 100 of the initial spot."""

    market: str
    hedge: str
    summary: Summary
    pnl: np.ndarray  # (n_months,)


def backtest_simulated(config: BacktestConfig, model: Model, label: str) -> list[Outcome]:
    """Every hedge on the same simulated months of `model`, marked at the model's own prices."""
    paths = model.simulate(config.n_paths, config.n_steps, config.maturity, seed=config.seed, backend=config.backend)
    option = Option(strike=config.moneyness * model.spot, expiry_years=float(paths.times[-1]))
    market = model.market(paths)
    marker = functools.cache(lambda step: market.mark(option, step))  # marks are dear, and the same for every hedge
    outcomes = []
    for name, hedge in HEDGES.items():
        episode = sell_and_hedge(
            paths.times,
            paths.spot,
            option,
            marker,
            hedge,
            half_spread_bps=config.half_spread_bps,
            rate=model.rate,
            dividend=model.dividend,
        )
        outcomes.append(_measure(label, name, episode, 100.0 / model.spot, config.confidence))
    return outcomes


def backtest_history(config: BacktestConfig, closes: np.ndarray, label: str) -> list[Outcome]:
    """Every hedge on consecutive months of daily `closes`, each sold on the day the one before expires.

    There are no option quotes in the series, so premium and delta are model marks: Black-Scholes at the volatility
    known at each close (`sp500.ewma_volatility`), at rate and dividend 0. Each month is scaled to start at 100.

    Raises ValueError where `closes` hold less than two months of `n_steps` days.
    """
    span = config.history.volatility_span_days
    starts = np.arange(span, len(closes) - config.n_steps, config.n_steps)
    if starts.size < 2:
        raise ValueError(
            f"n_steps must leave two months in the {len(closes)} closes of the history, of which the first "
            f"history.volatility_span_days = {span} only start the volatility, got {config.n_steps}"
        )
    volatility = sp500.ewma_volatility(closes, span)
    days = starts + np.arange(config.n_steps + 1)[:, None]  # (n_steps + 1, n_months)
    spot = 100.0 * closes[days] / closes[starts]
    times = np.arange(config.n_steps + 1) / sp500.TRADING_DAYS
    option = Option(strike=100.0 * config.moneyness, expiry_years=float(times[-1]))

    def marker(step: int) -> Greeks:
        return black_scholes(spot[step], option.strike, float(times[-1] - times[step]), volatility[days[step]])

    outcomes = []
    for name, hedge in HEDGES.items():
        episode = sell_and_hedge(times, spot, option, marker, hedge, half_spread_bps=config.half_spread_bps)
        outcomes.append(_measure(label, name, episode, 1.0, config.confidence))
    return outcomes


def _measure(market: str, hedge: str, episode: Episode, scale: float, confidence: float) -> Outcome:
    pnl, cost, premium = (scale * to_numpy(each) for each in (episode.pnl, episode.cost[-1], episode.premium))
    return Outcome(market, hedge, summarise(pnl, cost, premium, confidence), pnl)


def table(outcomes: list[Outcome], config: BacktestConfig) -> str:
    """The outcomes as lines of text."""
    tail = f"CVaR{100 * config.confidence:g}"
    columns = ("months", "mean", "(s.e.)", "sd", tail, "cost", "premium")
    header = f"{'market':<28}{'hedge':<8}" + "".join(f"{name:>9}" for name in columns)
    lines = [
        f"One call sold a month, {config.n_steps} trading days, strike {config.moneyness:g} x spot, hedged every day "
        f"at a half-spread of {config.half_spread_bps:g} bp of the stock traded.",
        f"Per 100 of spot; profit is positive. {tail} is the mean loss of the worst "
        f"{100 * (1 - config.confidence):g} % of months.",
        "",
        header,
        "-" * len(header),
    ]
    for outcome in outcomes:
        s = outcome.summary
        lines.append(
            f"{outcome.market:<28}{outcome.hedge:<8}{s.count:>9}{s.mean:>9.3f}{f'({s.mean_se:.3f})':>9}"
            f"{s.sd:>9.3f}{s.cvar:>9.3f}{s.cost:>9.4f}{s.premium:>9.3f}"
        )
    return "\n".join(lines)


def save_report(outcomes: list[Outcome], config: BacktestConfig, folder: Path) -> None:
    """Writes results.json and pnl.png into `folder`."""
    results = {
        "hedgerl": hedgerl.__version__,
        "commit": _commit(),
        "config": OmegaConf.to_container(OmegaConf.structured(config), resolve=True),
        "results": [{"market": each.market, "hedge": each.hedge} | asdict(each.summary) for each in outcomes],
    }
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    _plot(outcomes, folder / "pnl.png")


def _plot(outcomes: list[Outcome], file: Path) -> None:
    """Histograms of monthly P&L, one panel a market."""
    from matplotlib.figure import Figure

    markets = list(dict.fromkeys(each.market for each in outcomes))
    figure = Figure(figsize=(5.0 * len(markets), 3.4), layout="constrained")
    axes = figure.subplots(1, len(markets), squeeze=False)[0]
    for axis, market in zip(axes, markets, strict=True):
        shown = [each for each in outcomes if each.market == market]
        low, high = np.quantile(np.concatenate([each.pnl for each in shown]), [0.002, 1.0])
        bins = np.linspace(low, high, 61)
        for each in shown:
            label = f"{each.hedge}: sd {each.summary.sd:.2f}, CVaR {each.summary.cvar:.2f}"
            axis.hist(np.clip(each.pnl, low, high), bins=bins, density=True, alpha=0.55, label=label)
        axis.set_title(market)
        axis.set_xlabel("P&L of a month, per 100 of spot")
        axis.set_yticks([])
        axis.legend(frameon=False, loc="upper left")
    figure.savefig(file, dpi=110)


def _commit() -> str | None:
    """The git commit of the checkout that this file lies in; None where it was installed from a wheel."""
    package = Path(hedgerl.__file__).parent
    if not (package.parent / "pyproject.toml").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(package), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def run(config: BacktestConfig, model: Model, folder: Path) -> list[Outcome]:
    """The whole backtest: prints the table and writes the report into `folder`."""
    # history first: it takes milliseconds, and knows whether n_steps fits
    history = backtest_history(config, sp500.load().closes, "S&P 500 1999-2018 *") if config.history.enabled else []
    outcomes = backtest_simulated(config, model, f"simulated {type(model).__name__}") + history
    print(table(outcomes, config))
    if config.history.enabled:
        print(
            f"\n* real closes, model marks: Black-Scholes at {config.history.volatility_span_days}-day EWMA realised"
            " volatility, not market quotes"
        )
    save_report(outcomes, config, folder)
    print(f"\nresults.json and pnl.png are in {folder}")
    return outcomes


ConfigStore.instance().store(name="backtest_schema", node=BacktestConfig)


def from_hydra(config: DictConfig, folder: Path) -> None:
    """Runs one backtest from its Hydra configuration and writes into the run's `folder`."""
    if "_target_" not in (config.market or ()):
        raise ValueError(f"market must name a model of conf/market, got {config.market}")
    model = hydra.utils.instantiate(config.market, _convert_="all")
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, BacktestConfig)
    run(typed, model, folder)
