"""Where trainings run: processes of this machine, or a Dask cluster that is there already."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Client, Nanny, Scheduler, SpecCluster

from segloss_hub.errors import HubError

LOOPBACK = "127.0.0.1"  # whoever reaches a scheduler can run code
LOGS = logging.CRITICAL  # the display says what matters
GPU = "GPU"  # the resource of a worker that a training takes one of
PRELOAD = "segloss_hub.bench.sweep.preload"
RETRIES = 2  # of a training that raises, or whose process dies
CONNECT = 15.0  # seconds
FIRST_WORKER = 600.0  # seconds; a queue of jobs may take its time

# Workers hold what they train, and no task beside it: a process that dies takes one along.
SETTINGS = {
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.allowed-failures": RETRIES,
    "distributed.scheduler.no-workers-timeout": "5 minutes",  # rather than to wait for ever
    # A process that dies is started again; this much later, one that starts would be given up.
    "distributed.deploy.lost-worker-timeout": "1 day",
    "distributed.worker.daemon": False,  # a data loader may have processes of its own
    "distributed.worker.profile.enabled": False,  # it looks at a training a hundred times a second
    "distributed.comm.timeouts.tcp": "5 minutes",  # many trainings keep a process from answering
}


class ClusterError(HubError, RuntimeError):
    """The cluster cannot be used for trainings."""


@contextmanager
def connected(scheduler: str | None = None, workers: int | None = None) -> Iterator[Client]:
    """A client of the scheduler at this address, or of as many processes here as asked for."""
    if scheduler is not None:
        with _existing(scheduler) as client:
            yield client
    else:
        with local_cluster(visible_gpus(), workers) as cluster, Client(cluster) as client:
            yield client


@contextmanager
def local_cluster(gpus: Sequence[str], workers: int | None = None) -> Iterator[SpecCluster]:
    """Processes of one thread each: one to a GPU where there are any, else one to a core."""
    count = workers or len(gpus) or CPU_COUNT
    options = [_options(gpus[number % len(gpus)] if gpus else None) for number in range(count)]
    workers_of = {number: {"cls": Nanny, "options": each} for number, each in enumerate(options)}
    scheduler = {
        "cls": Scheduler,
        "options": {"host": LOOPBACK, "dashboard": True, "dashboard_address": f"{LOOPBACK}:0"},
    }
    with dask.config.set(SETTINGS):
        cluster = SpecCluster(workers_of, scheduler, silence_logs=LOGS)
        try:
            yield cluster
        finally:
            # It cannot close while a worker is restarting; what it leaves ends with this process.
            with suppress(Exception):
                cluster.close()


def visible_gpus() -> list[str]:
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named == "":
        return []
    import torch  # which takes seconds, and a cluster elsewhere does not ask

    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def resources(client: Client) -> dict[str, float]:
    """What a training takes of its worker: a GPU, if there are workers that have one to give."""
    return {GPU: 1} if any(GPU in worker["resources"] for worker in _workers(client)) else {}


def _options(gpu: str | None) -> dict[str, Any]:
    # No limit of memory: the worker would pause at 80 % of its share, and be ended at 95 %.
    options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "host": LOOPBACK}
    options |= {"silence_logs": LOGS, "preload": [PRELOAD]}
    if gpu is not None:
        options |= {"env": {"CUDA_VISIBLE_DEVICES": gpu}, "resources": {GPU: 1}}
    return options


@contextmanager
def _existing(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=CONNECT)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address!r}: {error}. Start one with `dask scheduler` "
            "and give the address that it prints, such as tcp://10.0.0.1:8786"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=FIRST_WORKER)
        except TimeoutError as error:
            raise ClusterError(
                f"the scheduler at {address} has had no worker for {FIRST_WORKER / 60:.0f} "
                f"minutes: start some with `dask worker {address} --nthreads 1`"
            ) from error
        for worker in _workers(client):
            # Seeds, threads and the log belong to the process.
            if worker["nthreads"] != 1:
                raise ClusterError(
                    f"the worker {worker['id']} has {worker['nthreads']} threads, and a training "
                    f"needs a process of its own: `dask worker {address} --nthreads 1 --nworkers N`"
                )
        yield client


def _workers(client: Client) -> list[dict[str, Any]]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())
