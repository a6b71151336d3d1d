"""`hedgerl calibrate`: from a store of chains to a market that the other commands take."""

from __future__ import annotations

import json
import os
from pathlib import Path

import hydra.utils
import numpy as np
import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

import hedgerl.conf
from hedgerl import calibrate, cli
from hedgerl.data.chains import Store, import_files
from hedgerl.data.quotes import expiries, out_of_the_money, settlement
from hedgerl.pricing import Option, heston, implied_volatility
from hedgerl.sim import Heston

POINT = np.array([2.5, 0.06, 0.9, -0.7, 0.03])
REAL = os.environ.get("HEDGERL_DATA")
real = pytest.mark.skipif(not REAL, reason="HEDGERL_DATA does not name a folder of market data")
CONF = Path(hedgerl.conf.__file__).parent / "market"


def chain_of_heston() -> pd.DataFrame:
    """Quotes of Heston's model on four Fridays, without noise but for the spread."""
    day = pd.Timestamp("2019-05-24")
    now = np.datetime64(day, "m") + np.timedelta64(16 * 60 + 15, "m")
    frames = []
    for week in (3, 8, 17, 43):
        date = np.datetime64(day, "D") + np.timedelta64(7 * week, "D")
        years = float((settlement("SPXW", date) - now) / np.timedelta64(525_600, "m"))
        strike = np.unique(np.round(2800.0 * np.exp(np.linspace(-3.5, 2.2, 25) * 0.2 * years**0.5) / 5) * 5)
        kappa, theta, sigma, rho, v0 = POINT
        for right in "CP":
            price = heston(
                *(2800.0, strike, years, v0),
                **{"kappa": kappa, "theta": theta, "sigma": sigma, "rho": rho, "rate": 0.03, "dividend": 0.01},
                is_call=right == "C",
            ).price
            half = 0.05 + 0.005 * price**0.5
            frame = pd.DataFrame({"strike": strike, "bid": np.maximum(price - half, 0.0), "ask": price + half})
            frames.append(frame.assign(right=right, root="SPXW", expiry=str(date)))
    return pd.concat(frames).assign(quote_date="2019-05-24", underlying_price=2800.0, underlying="SPX")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    pytest.importorskip("pandera", reason="the extra data is not installed")
    folder = tmp_path_factory.mktemp("chains")
    chain_of_heston().to_csv(folder / "made.csv", index=False)
    import_files("generic", [folder / "made.csv"], folder / "store")
    return str(folder / "store")


def run(*arguments: str) -> int:
    return cli.main(["calibrate", *arguments])


def test_from_chain_to_market(store, tmp_path, capsys):
    """Identity: Heston's parameters come back through files, parity and thinning, within 4 errors and 3 %; the YAML
    builds a model, the JSON agrees with it, and the commands take the market by its name."""
    assert run("market=heston", store, "--date", "2019-05-24", "--out", str(tmp_path)) == 0
    told = capsys.readouterr().out
    assert "kappa held" in told
    name = "spx_2019_05_24_heston"
    text = (tmp_path / "market" / f"{name}.yaml").read_text()
    market = hydra.utils.instantiate(OmegaConf.create(yaml.safe_load(text)), _convert_="all")
    assert isinstance(market, Heston)
    record = json.loads((tmp_path / f"{name}.json").read_text())
    for key, wanted in zip(("kappa", "theta", "sigma", "rho", "v0"), POINT, strict=True):
        own = record["parameters"][key]
        assert own["value"] == pytest.approx(getattr(market, key), rel=1e-5)
        assert abs(own["value"] - wanted) < 4.0 * own["standard_error"] + 1e-3 * abs(wanted)
        assert own["value"] == pytest.approx(wanted, rel=0.03)
    assert (market.rate, market.dividend) == (pytest.approx(0.03, abs=2e-3), pytest.approx(0.01, abs=2e-3))
    assert record["inside"] > 0.95
    assert record["quotes"]["date"] == "2019-05-24"
    assert list(record["quotes"]["sha256"].values()) == [each.sha256 for each in Store(store).manifest.files]
    assert record["profile"]["name"] == "kappa"
    assert text.startswith("# Heston, fitted to SPX options of 2019-05-24 16:15: 4 expiries")
    assert "hedgerl calibrate market=heston" in text
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob(".*"))


def test_rough_bergomi_held_and_history(store, tmp_path, capsys):
    """Behaviour: --hurst holds it, --history reports one from days up to the chain's alone, --name names the files."""
    days = pd.bdate_range("2012-01-02", "2019-06-28")
    rng = np.random.default_rng(1)
    width = np.exp(0.3 * np.cumsum(rng.normal(size=days.size)) / 30 + 0.3 * rng.normal(size=days.size)) / 100
    frame = pd.DataFrame({"Date": days, "Close": 100.0, "Open": 100.0, "High": 100 * np.exp(width), "Low": 100.0})
    frame.to_csv(tmp_path / "series.csv", index=False)
    known = calibrate.roughness(str(tmp_path / "series.csv"), np.datetime64("2019-05-24"))
    frame.loc[frame["Date"] > "2019-05-24", "High"] = 300.0
    frame.to_csv(tmp_path / "series.csv", index=False)
    assert calibrate.roughness(str(tmp_path / "series.csv"), np.datetime64("2019-05-24")) == known
    small = ("--paths", "2048", "--steps-per-year", "60", "--strikes", "7", "--no-profile", "--name", "mine")
    history = ("--history", str(tmp_path / "series.csv"), "--out", str(tmp_path))
    assert run("market=rbergomi", store, "--date", "2019-05-24", "--hurst", "0.1", *small, *history) == 0
    assert f"hurst of the history's daily ranges: {known.hurst:.3f}" in capsys.readouterr().out
    market = yaml.safe_load((tmp_path / "market" / "mine.yaml").read_text())
    assert market["hurst"] == 0.1
    assert len(market["forward_variance"][0]) == 2 * 4
    own = json.loads((tmp_path / "mine.json").read_text())["parameters"]
    assert own["hurst"] == pytest.approx({**own["hurst"], "held": True, "standard_error": None})
    assert own["eta"]["monte_carlo"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["market=hestn", "--date", "2019-05-24"], "did you mean heston"),
        (["market=heston", "--date", "2019-05-25"], "no quotes of SPX on 2019-05-25; the nearest day is 2019-05-24"),
        (["market=heston", "--date", "May"], "date must be a date or YYYY-MM-DD, got 'May'"),
        (["market=heston", "--date", "2019-05-24", "--underlying", "NDX"], "has no options on 'NDX' (it has: SPX)"),
        (["market=heston", "--date", "2019-05-24", "--days", "15", "30"], "does not identify kappa and theta"),
        (["market=rbergomi", "--date", "2019-05-24", "--days", "15", "30"], "does not identify hurst"),
        (["market=heston", "--date", "2019-05-24", "--days", "1", "5"], "days 1 to 5 must hold an expiry"),
        (["market=heston", "--date", "2019-05-24", "--hold", "kappa"], "hold must be NAME=VALUE"),
        (["market=heston", "--date", "2019-05-24", "--hurst", "0.1"], "hold must name a parameter of the model"),
        (["market=rbergomi", "--date", "2019-05-24", "--hurst", "0.7"], "hurst must lie in [0.005, 0.495], got 0.7"),
        (["market=sabr", "--date", "2019-05-24", "--paths", "10"], "paths must be a whole number of at least 2048"),
        (["market=sabr", "--date", "2019-05-24", "--pats", "10"], "unrecognized arguments"),
        (["market=heston", "--date", "2019-05-24", "--history", "none.csv"], "none.csv must be a file"),
    ],
)
def test_bad_input(store, tmp_path, capsys, arguments, said):
    """Behaviour: one line, exit status 2, and nothing written."""
    assert run(arguments[0], store, *arguments[1:], "--out", str(tmp_path / "out")) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_shipped_markets_build_their_models():
    """Behaviour: each calibrated market of conf/market gives a model, spot 100, with a comment on its source."""
    files = sorted(CONF.glob("spx_*.yaml"))
    assert len(files) == 9
    for file in files:
        text = file.read_text()
        model = hydra.utils.instantiate(OmegaConf.create(yaml.safe_load(text)), _convert_="all")
        assert (
            type(model).__name__
            == {"heston": "Heston", "rbergomi": "RoughBergomi", "sabr": "SABR"}[file.stem.rpartition("_")[2]]
        )
        assert model.spot == 100.0
        day = "-".join(file.stem.split("_")[1:4])
        assert f"options of {day} 16:15" in text.splitlines()[0]


@real
def test_marks_of_a_shipped_market_are_near_the_chain(tmp_path):
    """Golden: at-the-money volatilities of Heston's marks, fitted to 2019-05-24, lie within a point of the mids of the
    chain for expiries of 10 to 400 days. Catches a rate, a year or a parameter that the simulator takes otherwise."""
    assert REAL is not None
    file = next((Path(REAL) / "options" / "parquet").glob("spx_chain_daily_20190425*"))
    chain = pd.read_parquet(file, filters=[("quote_date", "==", pd.Timestamp("2019-05-24"))])
    configuration = OmegaConf.create(yaml.safe_load((CONF / "spx_2019_05_24_heston.yaml").read_text()))
    model = hydra.utils.instantiate(configuration, _convert_="all")
    market = model.market(model.simulate(n_paths=2, times=[0.0, 1 / 252], seed=1, backend="numpy"))
    checked = 0
    for each in expiries(chain):
        if not 10 <= each.years * 365 <= 400:
            continue
        quotes = out_of_the_money(each)
        place = np.argmin(np.abs(np.log(quotes["strike"] / each.forward)))
        carry = {"rate": model.rate, "dividend": model.dividend}
        forward = 100.0 * np.exp((model.rate - model.dividend) * each.years)
        strike = float(quotes["strike"][place] / each.forward * forward)
        price = market.mark(Option(strike=strike, expiry_years=each.years), 0).price[0]
        own = implied_volatility(float(price), 100.0, strike, each.years, **carry)
        assert abs(own - quotes["volatility"][place]) < 0.01
        checked += 1
    assert checked > 20


def test_american_options_need_a_rate(tmp_path, capsys):
    """Behaviour: a chain of American options is refused without `--rate`, and fitted with it."""
    chain_of_heston().assign(style="A").to_csv(tmp_path / "made.csv", index=False)
    import_files("generic", [tmp_path / "made.csv"], tmp_path / "store")
    given = ["market=heston", str(tmp_path / "store"), "--date", "2019-05-24", "--out", str(tmp_path), "--no-profile"]
    assert run(*given) == 2
    assert "rate must be given where options are American" in capsys.readouterr().err
    assert run(*given, "--rate", "0.03", "--expiries", "3") == 0
