"""`hedgerl calibrate`: a model fitted to a day's option chain, and written down as a market."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import hedgerl
from hedgerl.calibration.chain import Carry, carry, slices
from hedgerl.calibration.fit import Fit, Profile, profile, solve
from hedgerl.calibration.models import (
    MODELS,
    Calibrated,
    Settings,
    configuration,
    identified,
    model,
    monte_carlo_errors,
    profile_values,
)
from hedgerl.calibration.sabr import SabrPricer
from hedgerl.data.chains import Store
from hedgerl.data.daily import read_daily
from hedgerl.data.estimators import Roughness, hurst_exponent, parkinson
from hedgerl.data.quotes import expiries
from hedgerl.files import write_bytes, write_text
from hedgerl.parsing import CommandParser
from hedgerl.pricing._checks import day, whole_number
from hedgerl.report.drawing import TEXT, colour, style
from hedgerl.report.numbers import strict

FORMAT = 1  # of the JSON file


@dataclass(frozen=True, eq=False)
class Outcome:
    """All that a calibration found."""

    name: str
    kind: Calibrated
    fit: Fit
    constants: Carry
    noise: Mapping[str, float]  # Monte Carlo's own errors by parameter
    profile: Profile | None
    history: Roughness | None
    expansion: list[float] | None  # of SABR: root mean square distance of Hagan's volatilities, by expiry
    seconds: float


def main(arguments: list[str]) -> None:
    """Does what a command line asks for. Raises ValueError for a bad flag, an unknown model or day, too few quotes."""
    given = _parser().parse_args(arguments)
    began = time.perf_counter()
    name = given.market.removeprefix("market=")
    kind = model(name)
    hold = _held(given.hold or [], given.hurst)
    store = Store(given.store)
    underlying, date = store.optioned(given.underlying), day("date", given.date)
    chain = store.chain(underlying, date)
    quoted = expiries(chain, at=given.at, rate=given.rate)
    days = given.days or kind.days
    chosen = slices(
        quoted,
        days=(days[0], days[1]),
        moneyness=(given.moneyness[0], given.moneyness[1]),
        n_expiries=given.expiries,
        n_strikes=given.strikes,
    )
    identified(kind, chosen, hold)
    settings = Settings(
        whole_number("paths", given.paths, minimum=2048), whole_number("steps_per_year", given.steps_per_year)
    )
    history = None if given.history is None else roughness(given.history, date)
    fit = solve(kind.make(chosen, settings, 1), chosen, hold=hold)
    along = kind.profile not in fit.held and not given.no_profile and len(chosen) > 1
    outcome = Outcome(
        name=given.name or f"{underlying}_{date}_{name}".lower().replace("-", "_"),
        kind=kind,
        fit=fit,
        constants=carry(chosen, quoted[0].spot),
        noise=monte_carlo_errors(kind, fit, settings),
        profile=profile(fit, kind.profile, profile_values(kind, fit)) if along else None,
        history=history,
        expansion=_expansion(fit),
        seconds=time.perf_counter() - began,
    )
    source = {
        "underlying": underlying,
        "date": str(date),
        "at": given.at,
        "source": sorted(set(chain["source"].astype(str))),
        "sha256": _checksum(store, underlying, str(date)),
    }
    command = " ".join(["hedgerl calibrate", *arguments])
    print(told(outcome))
    write(outcome, Path(given.out), source, command, asdict(settings) | {"days": list(days)})


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="hedgerl calibrate",
        allow_abbrev=False,
        description="Fits a model to the options of a day, tells its errors, and writes a market that the other "
        "commands take: --config-dir OUT market=NAME.",
    )
    parser.add_argument("market", metavar="market=NAME", help=f"one of {', '.join(MODELS)}")
    parser.add_argument("store", metavar="STORE", help="folder that `hedgerl data import` wrote")
    parser.add_argument("--date", required=True, metavar="YYYY-MM-DD", help="day of the chain")
    parser.add_argument("--underlying", metavar="SPX", help="where the store has options on more than one")
    parser.add_argument("--out", default="calibration", metavar="DIR", help="folder of what is written")
    parser.add_argument("--name", metavar="NAME", help="of the market; by default underlying, day and model")
    parser.add_argument("--at", default="16:15", metavar="HH:MM", help="time of the quotes at the exchange")
    parser.add_argument("--rate", type=float, metavar="R", help="a year; for American options, else parity tells")
    parser.add_argument("--days", nargs=2, type=float, metavar=("LOW", "HIGH"), help="to expiry (10 400; SABR: 15 60)")
    parser.add_argument(
        "--moneyness",
        nargs=2,
        type=float,
        default=(-4.0, 2.5),
        metavar=("LOW", "HIGH"),
        help="log(K / F) in standard deviations at the money",
    )
    parser.add_argument("--expiries", type=int, default=12, metavar="N", help="that are used at most")
    parser.add_argument("--strikes", type=int, default=25, metavar="N", help="of an expiry that are used at most")
    parser.add_argument("--hold", action="append", metavar="NAME=VALUE", help="a parameter that is not fitted; again")
    parser.add_argument("--hurst", type=float, metavar="H", help="short for --hold hurst=H")
    parser.add_argument("--history", metavar="FILE", help="daily prices, for the Hurst exponent of realised variance")
    parser.add_argument("--paths", type=int, default=32_768, metavar="N", help="of the Monte Carlo")
    parser.add_argument(
        "--steps-per-year", type=int, default=252, metavar="N", help="of the Monte Carlo: those of the simulations"
    )
    parser.add_argument(
        "--no-profile", action="store_true", help="leave the profile out, which takes a third of the time"
    )
    return parser


def _held(items: Sequence[str], hurst: float | None) -> dict[str, float]:
    held = {} if hurst is None else {"hurst": hurst}
    for item in items:
        name, _, value = item.partition("=")
        try:
            held[name] = float(value)
        except ValueError:
            raise ValueError(f"hold must be NAME=VALUE with a number, got {item}") from None
        if not math.isfinite(held[name]):
            raise ValueError(f"hold must be NAME=VALUE with a number, got {item}")
    return held


def _checksum(store: Store, underlying: str, day: str) -> dict[str, str]:
    file = next(each for each in store.manifest.files if each.underlying == underlying and day in each.days)
    return {file.path: file.sha256}


def roughness(path: str, day: np.datetime64) -> Roughness:
    """The Hurst exponent of the logarithm of daily ranges' variance, up to and including a day (no later ones).

    A range is a noisy measure of a day's variance, and noise looks rough: the exponent is too low.
    """
    series = read_daily(path)
    if series.high is None or series.low is None:
        raise ValueError(f"{path} must have columns High and Low for a realised variance")
    known = series.dates <= day
    daily = parkinson(series.high[known], series.low[known], 1) if known.any() else np.empty(0)
    return hurst_exponent(2.0 * np.log(daily[daily > 0]))


def _expansion(fit: Fit) -> list[float] | None:
    if not isinstance(fit.pricer, SabrPricer):
        return None
    away = fit.pricer.expansion(fit.point) - fit.volatility
    edges = np.cumsum([0, *(each.k.size for each in fit.slices)])
    return [float(np.sqrt((away[a:b] ** 2).mean())) for a, b in zip(edges, edges[1:], strict=False)]


def told(outcome: Outcome) -> str:
    """The outcome as text."""
    fit, kind = outcome.fit, outcome.kind
    several = "expiries" if len(fit.slices) > 1 else "expiry"
    lines = [f"{kind.title}, {len(fit.slices)} {several}, {fit.volatility.size} quotes", ""]
    lines.append(f"{'parameter':<20}{'value':>10}{'error':>10}{'by quotes':>11}{'by expiry':>11}{'Monte Carlo':>13}")
    for place, each in enumerate(fit.pricer.parameters):
        numbers = (fit.error[place], fit.error_quotes[place], fit.error_expiries[place], outcome.noise.get(each.name))
        cells = "".join(_cell(number).rjust(width) for number, width in zip(numbers, (10, 11, 11, 13), strict=True))
        note = "  held" if each.name in fit.held else "  at its bound" if each.name in fit.at_bound else ""
        lines.append(f"{each.name:<20}{fit.point[place]:>10.4g}{cells}{note}")
    lines += [
        "",
        f"{'expiry':<26}{'quotes':>7}{'rmse':>8}{'mean':>8}{'spread/2':>10}{'inside':>8}   (volatility points)",
    ]
    for row in fit.by_expiry():
        label = f"{row['root']} {row['expiry']} {row['days']:.0f} d"
        lines.append(
            f"{label:<26}{row['quotes']:>7}{100 * row['rmse']:>8.2f}{100 * row['mean']:>8.2f}"
            f"{100 * row['half_spread']:>10.2f}{100 * row['inside']:>6.0f} %"
        )
    lines.append(f"{'all':<33}{100 * fit.rmse:>8.2f}{'':>18}{100 * fit.inside:>6.0f} %")
    if outcome.profile is not None:
        found = outcome.profile
        lines += ["", f"{found.name} held: " + ", ".join(f"{value:.3g}" for value in found.values)]
        lines.append("  rmse, points: " + ", ".join(f"{100 * value:.2f}" for value in found.rmse))
    lines += [""] + remarks(outcome)
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.2g}"


def remarks(outcome: Outcome) -> list[str]:
    """What a reader of the numbers should know."""
    fit, constants, values = outcome.fit, outcome.constants, outcome.fit.values
    said = [
        f"rate {constants.rate:.4f}, dividend {constants.dividend:.4f}; forward prices are within "
        f"{1e4 * constants.forward_error:.1f} bp of these constants"
    ]
    if "kappa" in values:
        feller = 2.0 * values["kappa"] * values["theta"] / values["sigma"] ** 2
        said.append(f"Feller: 2 kappa theta / sigma^2 = {feller:.2f}" + ("" if feller >= 1 else ", variance touches 0"))
    if outcome.expansion is not None:
        said.append("one set of SABR's numbers has no term structure: judge it by the errors of its expiries")
        away = ", ".join(f"{100 * each:.2f}" for each in outcome.expansion)
        said.append(f"Hagan's formula at these numbers is off by (rms by expiry, points): {away}")
    if outcome.history is not None:
        said.append(
            f"hurst of the history's daily ranges: {outcome.history.hurst:.3f} +- {outcome.history.standard_error:.3f}"
        )
    if len(fit.slices) < 3:
        said.append("fewer than three expiries: errors are by quotes alone")
    return said


def write(outcome: Outcome, out: Path, source: Mapping[str, Any], command: str, settings: Mapping[str, Any]) -> None:
    """Writes NAME.json, NAME.png and, when those stand, market/NAME.yaml."""
    content = {"format": FORMAT, "version": hedgerl.__version__, "command": command, "quotes": source}
    content |= {"settings": settings, **record(outcome)}
    write_text(out / f"{outcome.name}.json", json.dumps(strict(content), indent=1, allow_nan=False) + "\n")
    write_bytes(out / f"{outcome.name}.png", picture(outcome, str(source["date"])))
    market = out / "market" / f"{outcome.name}.yaml"
    write_text(market, yaml(outcome, source, command))
    print(f"\n{market}, {outcome.name}.json, {outcome.name}.png ({outcome.seconds:.0f} s)")
    print(f"hedgerl backtest --config-dir {out} market={outcome.name}")


def record(outcome: Outcome) -> dict[str, Any]:
    """All numbers, for JSON."""
    fit = outcome.fit
    parameters = {
        each.name: {
            "value": fit.point[place],
            "standard_error": fit.error[place],
            "by_quotes": fit.error_quotes[place],
            "by_expiries": fit.error_expiries[place],
            "monte_carlo": outcome.noise.get(each.name, math.nan),
            "held": each.name in fit.held,
            "at_bound": each.name in fit.at_bound,
        }
        for place, each in enumerate(fit.pricer.parameters)
    }
    found = outcome.profile
    return {
        "model": outcome.kind.target,
        "parameters": parameters,
        "correlation": fit.correlation.tolist(),
        "constants": outcome.constants._asdict(),
        "rmse": fit.rmse,
        "inside": fit.inside,
        "expiries": fit.by_expiry(),
        "profile": None
        if found is None
        else {
            "name": found.name,
            "values": found.values.tolist(),
            "rmse": found.rmse.tolist(),
            "loss": found.loss.tolist(),
        },
        "history_hurst": None if outcome.history is None else outcome.history._asdict(),
        "expansion_error": outcome.expansion,
        "losses": list(fit.losses),
        "evaluations": fit.evaluations,
        "seconds": outcome.seconds,
    }


def yaml(outcome: Outcome, source: Mapping[str, Any], command: str) -> str:
    """The market's configuration, with where it comes from."""
    fit = outcome.fit
    first, last = fit.slices[0], fit.slices[-1]
    lines = [
        f"# {outcome.kind.title}, fitted to {source['underlying']} options of {source['date']} {source['at']}: "
        f"{len(fit.slices)} expiries, {first.date} to {last.date}.",
        f"# {command}",
        f"# Root mean square error {100 * fit.rmse:.2f} volatility points; {100 * fit.inside:.0f} % of "
        f"{fit.volatility.size} quotes within bid and ask.",
        f"# Standard errors (Monte Carlo's own): {_errors(outcome)}.",
    ]
    notes = dict(outcome.kind.notes) | {
        "rate": "per year, continuously compounded: least squares over the discount factors",
        "dividend": "yield per year, continuously compounded: least squares over the forward prices",
        "drift": "real-world growth per year before dividends; null: the rate",
        "variance_risk_premium": "of the real-world variance, moves the paths and not the marks",
    }
    for key, value in configuration(outcome.kind, fit, outcome.constants).items():
        text = "null" if value is None else f"{value}"
        lines.append(f"{key}: {text}" + (f" # {notes[key]}" if key in notes else ""))
    return "\n".join(lines) + "\n"


def _errors(outcome: Outcome) -> str:
    fit = outcome.fit
    parts = []
    for place, each in enumerate(fit.pricer.parameters[: len(fit.point) - fit.pricer.n_curve]):
        own = outcome.noise.get(each.name)
        state = "held" if each.name in fit.held else "at its bound" if each.name in fit.at_bound else ""
        parts.append(f"{each.name} {state or _cell(fit.error[place])}" + ("" if own is None else f" ({_cell(own)})"))
    return ", ".join(parts)


def picture(outcome: Outcome, date: str) -> bytes:
    """Smiles by expiry: bids and asks as bars, the model as a line; a PNG."""
    fit = outcome.fit
    columns = min(4, len(fit.slices))
    rows = -(-len(fit.slices) // columns)
    with style():
        figure = Figure(figsize=(3.1 * columns + 0.4, 2.4 * rows + 1.1), facecolor="white", layout="constrained")
        panels = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
        first = 0
        for panel, each, row in zip(panels, fit.slices, fit.by_expiry(), strict=False):
            volatility = 100.0 * fit.volatility[first : first + each.k.size]
            first += each.k.size
            low = np.where(np.isfinite(each.bid), each.bid, each.mid - each.half_spread)
            panel.vlines(each.k, 100.0 * low, 100.0 * each.ask, color=colour("p7"), linewidth=1.6)
            panel.plot(each.k, 100.0 * each.mid, ".", color=colour("p7"), markersize=3.0)
            panel.plot(each.k, volatility, color=colour("p1"), linewidth=1.5)
            panel.set_title(f"{each.label}: {100 * row['rmse']:.2f}", fontsize=TEXT - 1, loc="left")
        for panel in panels[len(fit.slices) :]:
            panel.set_visible(False)
        figure.supxlabel("log(strike / forward)", fontsize=TEXT, color=colour("muted"))
        figure.supylabel("volatility, %", fontsize=TEXT, color=colour("muted"))
        shape = fit.pricer.parameters[: len(fit.point) - fit.pricer.n_curve]
        numbers = ", ".join(
            f"{each.name} {fit.point[i]:.3g}" + (f" ± {fit.error[i]:.1g}" if math.isfinite(fit.error[i]) else "")
            for i, each in enumerate(shape)
        )
        title = f"{outcome.kind.title}, {date}: {numbers}"
        under = (
            f"bars: bid to ask; line: model; over each: root mean square error in points (all: {100 * fit.rmse:.2f})"
        )
        figure.suptitle(f"{title}\n{under}", fontsize=TEXT, x=0.01, ha="left")
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()
