"""`hedgerl simulate`: paths and option marks of one market, as a data set on disk with a picture.

Read from the top down: check, simulate, draw, mark and write.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from tqdm import tqdm

from hedgerl.cluster import simulate_on
from hedgerl.pricing import Option, implied_volatility
from hedgerl.pricing._checks import positive
from hedgerl.sim import Model, Paths, dataset
from hedgerl.sim.backend import to_numpy, use_device
from hedgerl.sim.parts import simulate_on_devices

# settings that meta.json need not keep
NOT_ABOUT_NUMBERS = {"cluster", "devices", "out", "overwrite", "preview", "threads"}

Progress = Callable[[int, int], None]


@dataclass
class OptionConfig:
    """One option to be marked; the strike is relative to the initial spot."""

    name: str = MISSING
    strike: float = MISSING
    expiry_years: float = MISSING
    is_call: bool = True


@dataclass
class SimulateConfig:
    """Every key of conf/simulate.yaml, with its type; units and reasons stand there."""

    market: Any = MISSING
    n_paths: int = 10_000
    n_steps: int | None = 252
    maturity: float | None = 1.0
    times: list[float] | None = None
    substeps: int = 1
    antithetic: bool = False
    perturb: Any = None
    seed: int | None = 1
    dtype: str = "float32"
    backend: str = "auto"
    threads: int | None = None
    cluster: str | None = None
    devices: list[int] | None = None
    options: list[OptionConfig] = field(default_factory=list)
    out: str | None = None
    overwrite: bool = False
    preview: bool = True

    def __post_init__(self) -> None:
        if self.out == "":
            raise ValueError("out must name a folder or be null, got ''")
        if self.cluster is not None and self.backend == "cupy":
            raise ValueError("backend must be numpy or auto, which means numpy, on a cluster, got 'cupy'")
        if self.devices is not None and (self.cluster is not None or self.backend == "numpy"):
            other = f"cluster={self.cluster}" if self.cluster is not None else "backend=numpy"
            raise ValueError(f"devices are CUDA devices of this machine and must not be given with {other}")


def run(config: SimulateConfig, model: Model, perturb: dict[str, Any] | None, out: Path) -> None:
    """Simulates, marks, and writes the data set `out`; prints where it is."""
    dataset.check_destination(out, overwrite=config.overwrite)
    options = _options(config, model)
    simulate = functools.partial(
        model.simulate,
        n_steps=config.n_steps,
        maturity=config.maturity,
        seed=config.seed,
        times=config.times,
        substeps=config.substeps,
        antithetic=config.antithetic,
        perturb=perturb,
        backend=config.backend if config.cluster is None else "numpy",
        dtype=config.dtype,
    )
    with _progress_bar("paths") as progress:
        if config.cluster is not None:
            paths = simulate_on(config.cluster, simulate, config.n_paths, progress)
        elif config.devices is not None:
            paths = simulate_on_devices(config.devices, simulate, config.n_paths, progress)
            use_device(f"cuda:{config.devices[0]}")  # where they are marked
        else:
            paths = simulate(config.n_paths, threads=config.threads, progress=progress)
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in NOT_ABOUT_NUMBERS}
    attach = {"preview.png": preview(paths)} if config.preview else {}
    with _progress_bar("marks") as progress:
        dataset.save(
            paths, out, options, overwrite=config.overwrite, settings=settings, attach=attach, progress=progress
        )
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{paths!r}, {len(options)} options marked, {size / 1e6:.1f} MB: {out}")


def _options(config: SimulateConfig, model: Model) -> dict[str, Option]:
    """The options by name, with strikes in money. ValueError for a name given twice or a number out of range."""
    options: dict[str, Option] = {}
    for item in config.options:
        if item.name in options:
            raise ValueError(f"options must have different names, got {item.name!r} twice")
        strike = positive(f"strike of {item.name}", item.strike) * model.spot
        expiry_years = positive(f"expiry_years of {item.name}", item.expiry_years)
        options[item.name] = dataset.check_option(item.name, Option(strike, expiry_years, item.is_call))
    return options


@contextmanager
def _progress_bar(unit: str) -> Iterator[Progress]:
    """A bar on stderr where that is a terminal, as a function of (done, total)."""
    with tqdm(unit=f" {unit}", unit_scale=True, disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def preview(paths: Paths) -> bytes:
    """A PNG of three panels: quantiles of the spot, some variance paths, and the smile at two expiries."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 3.6), layout="constrained")
    fan, variance, smile = figure.subplots(1, 3)
    times = paths.times
    kept = slice(0, min(paths.n_paths, 20_000))  # enough for a picture
    quantiles = np.quantile(to_numpy(paths.spot[:, kept]), [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99], axis=1)
    for low, high, shade in ((0, 6, 0.15), (1, 5, 0.25), (2, 4, 0.4)):
        share = (98, 80, 50)[low]
        fan.fill_between(times, quantiles[low], quantiles[high], color="C0", alpha=shade, lw=0, label=f"{share} %")
    fan.plot(times, quantiles[3], color="C0", label="median")
    fan.set(title="spot", xlabel="years")
    fan.legend(frameon=False, loc="upper left")

    values = to_numpy(paths.variance[:, kept])
    variance.plot(times, np.sqrt(values[:, :4]), lw=0.7)
    variance.plot(
        times, np.sqrt(values.mean(axis=1, dtype=np.float64)), color="black", label="root of the mean variance"
    )
    variance.set(title="volatility, four paths", xlabel="years")
    variance.legend(frameon=False, loc="upper left")

    for expiry_years in _two_expiries(times):
        moneyness, volatility = _smile(paths, expiry_years)
        smile.plot(moneyness, volatility, marker=".", label=f"expiry {expiry_years:.3g} years")
    smile.set(title="implied volatility at the start", xlabel="log(strike / forward)")
    smile.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=90)
    return picture.getvalue()


def _two_expiries(times: np.ndarray) -> list[float]:
    """The kept time nearest to a month, and the last one."""
    near = float(times[1:][np.argmin(np.abs(times[1:] - 1 / 12))])
    return sorted({near, float(times[-1])})


def _smile(paths: Paths, expiry_years: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-moneyness and implied volatility, from the marks at time 0 of one path for each strike."""
    model = paths.model
    deviation = np.sqrt(expiry_years * float(np.mean(to_numpy(paths.variance[0]))))
    moneyness = deviation * np.linspace(-2.0, 1.5, 21)
    forward = model.spot * np.exp((model.rate - model.dividend) * expiry_years)
    strike = forward * np.exp(moneyness)
    is_call = moneyness > 0  # out of the money, where the price tells the volatility best
    few = model.simulate(strike.size, times=paths.times, seed=0, backend="numpy", dtype="float64", threads=1)
    price = model.market(few).mark(Option(strike, expiry_years, is_call), 0).price
    volatility = implied_volatility(
        price, model.spot, strike, expiry_years, rate=model.rate, dividend=model.dividend, is_call=is_call
    )
    return moneyness, np.asarray(volatility)


def hydra_overrides(arguments: list[str], keys: list[str]) -> list[str]:
    """The arguments, `execution=ray` among which means `cluster=ray`."""
    return ["cluster=ray" if item == "execution=ray" else item for item in arguments]


def from_hydra(config: DictConfig, folder: Path) -> None:
    """Runs one simulation from its Hydra configuration; without `out` the data set goes into the run's `folder`."""
    if "_target_" not in (config.market or ()):
        raise ValueError(f"market must name a model of conf/market, got {config.market}")
    model = hydra.utils.instantiate(config.market, _convert_="all")
    if config.perturb is not None and not isinstance(config.perturb, DictConfig):
        raise ValueError(f"perturb must be null or {{parameter: [low, high]}}, got {config.perturb}")
    perturb = hydra.utils.instantiate(config.perturb, _convert_="all")
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, SimulateConfig)
    out = folder / "dataset" if typed.out is None else Path(typed.out)
    run(typed, model, perturb, out)


ConfigStore.instance().store(name="simulate_schema", node=SimulateConfig)
