"""The pool that a configuration asks for: processes of this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from hedgerl.pricing._checks import whole_number
from hedgerl.studies.workers import LocalPool, Pool


def check_workers(workers: int, device: str) -> None:
    """Raises ValueError for a number of workers, or a device, that a study cannot have."""
    whole_number("workers", workers)
    if ":" in device:
        raise ValueError(f"device must be auto, cpu or cuda where workers see a GPU each, got {device!r}; see devices")


@contextmanager
def opened_pool(
    cluster: str | None, workers: int, threads: int | None, devices: Sequence[int] | None, device: str = "cpu"
) -> Iterator[Pool]:
    """The pool; its workers end with the block.

    devices: numbers of GPUs, taken by the workers in turn; None: all that torch finds, where `device` may be one.
    Raises ValueError for a GPU or a cluster that is not there.
    """
    if cluster is not None:
        from hedgerl.studies.ray_pool import RayPool

        pool: Pool = RayPool(cluster, workers, threads, gpus=0.0 if device == "cpu" else 1.0)
    else:
        found = torch.cuda.device_count()
        for number in devices or ():
            if not 0 <= number < found:
                raise ValueError(f"devices must be numbers of GPUs, of which there are {found}, got {number}")
        usable = list(range(found)) if devices is None and device != "cpu" else list(devices or ())
        pool = LocalPool(workers, threads, usable)
    try:
        yield pool
    finally:
        pool.close()


def hydra_overrides(arguments: list[str], keys: list[str]) -> list[str]:
    """The arguments as Hydra takes them.

    `execution=ray` means `cluster=ray`: conf/execution are costs. A space may get keys that its preset does not have.
    """
    spaces = ("search.space=", "hpo.space=", "band.space=")
    read = ["cluster=ray" if item == "execution=ray" else item for item in arguments]
    return [f"++{item}" if item.startswith(spaces) else item for item in read]
