"""From the device's arrays to torch's: marked `gpu`, and run on the stand-in for CuPy by tests/sim/test_device.py."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from hedgerl.agents.deep_hedging import DeepHedging
from hedgerl.agents.hedge_network import HedgeNetwork
from hedgerl.envs import ShortOption
from hedgerl.sim import BlackScholes, Heston, Model
from hedgerl.sim.backend import to_torch

MODELS = {
    "gbm": BlackScholes(volatility=0.2, rate=0.03),
    "heston": Heston(kappa=2.0, theta=0.04, sigma=0.9, rho=-0.7, v0=0.04),
}


def place(array: object) -> int:
    """Where an array of the device begins."""
    return array.data.ptr if hasattr(array, "data") else array._host.ctypes.data


@pytest.mark.gpu
def test_arrays_reach_torch_without_a_copy(cupy: ModuleType) -> None:
    """Identity: the same memory where it is in one run; a copy on the device where it is not."""
    array = cupy.arange(12.0).reshape(3, 4)
    here = torch.from_dlpack(array).device
    tensor = to_torch(array, here)
    assert tensor.data_ptr() == place(array)
    np.testing.assert_array_equal(to_torch(array.T, here).cpu().numpy(), array.get().T)
    assert to_torch(tensor, here) is tensor
    assert to_torch(array, "cpu").device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_deep_hedging_on_the_device(cupy: ModuleType, model: Model) -> None:
    """Twin: scenarios of the device are trained on where they lie, and a policy earns on them what it earns on the
    same scenario in NumPy's arrays. Catches a way through the host, and marks that change on it."""
    task = ShortOption(market=model, backend="cupy")
    scenario = task.scenario(64, 1)
    assert isinstance(scenario.spot, cupy.ndarray)
    where = torch.from_dlpack(scenario.spot).device
    learner = DeepHedging(
        task,
        HedgeNetwork.for_task(task),
        "mean_std",
        batch_paths=64,
        pool_batches=2,
        validation_paths=64,
        validate_every=4,
        horizon=4,
        device=where,
    )
    learner.learn(4)
    assert learner.validation is not None
    assert np.isfinite(learner.validation)
    with torch.no_grad():
        ours = learner.pnl(scenario).cpu().numpy()
        host = learner.pnl(scenario.mapped(lambda array: array.get())).cpu().numpy()
    np.testing.assert_allclose(ours, host, rtol=0, atol=1e-9)
