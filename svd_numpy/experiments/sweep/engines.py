"""Where the runs of a sweep are done: processes of this machine (joblib), or a cluster (Dask).

An engine yields every task once, when it has ended, in any order, with what `task.do` says of it. A worker that dies is
replaced, and its run, which is in its folder, goes on from its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from svd_numpy.checks import SvdError, SvdTypeError, SvdValueError
from svd_numpy.experiments.sweep.task import Task, do
from svd_numpy.train.ranks import usable_cores

Ended = Iterator[tuple[Task, str]]
MOST_DEATHS = 5  # of workers in a row, without a run that ends between them
PATIENCE = 60.0  # seconds that a scheduler may be away


class ClusterError(SvdError, RuntimeError):
    """The workers of a sweep keep dying, or the scheduler is gone; what has been done is kept."""


def on_this_machine(tasks: Sequence[Task], jobs: int) -> Ended:
    """Do tasks in so many processes, which share the processor cores; with one job, in this process."""
    if jobs == 1:
        for task in tasks:
            yield task, do(task)
        return
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    left, deaths = dict.fromkeys(range(len(tasks))), 0
    while left:
        with parallel_config("loky", n_jobs=jobs, inner_max_num_threads=_threads(jobs)):
            # One at a time goes to a worker, so that no finished run waits for others.
            work = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
            try:
                for number, said in work(delayed(_numbered)(number, tasks[number]) for number in [*left]):
                    del left[number]
                    deaths = 0
                    yield tasks[number], said
            except TerminatedWorkerError:
                deaths = _one_more(deaths)


def _numbered(number: int, task: Task) -> tuple[int, str]:
    return number, do(task)


def _threads(jobs: int) -> int:
    """Threads of each process, so that all of them together are as many as there are cores."""
    return max(1, len(usable_cores()) // jobs)


def _one_more(deaths: int) -> int:
    """Count a worker's death; raise where they come one after another."""
    if deaths + 1 == MOST_DEATHS:
        raise ClusterError(
            f"{MOST_DEATHS} workers died, one after another, without a run that ended between them; is there enough "
            "memory for all jobs? Start the sweep again, with fewer jobs: it does only what is missing"
        )
    return deaths + 1


def check_scheduler(scheduler: Any) -> str | None:
    """Check the address of a scheduler before anything is written; whether one is there shows later."""
    if scheduler is None:
        return None
    try:
        from distributed.comm import get_address_host_port
    except ImportError:
        raise SvdValueError(
            "scheduler: needs the package distributed; install it with pip install 'svd-numpy[cluster]'"
        ) from None
    if not isinstance(scheduler, str):
        raise SvdTypeError(f"scheduler: got {scheduler!r}, expected an address such as 'tcp://host:8786', or 'local'")
    if scheduler != "local":
        try:
            get_address_host_port(scheduler)
        except ValueError as error:
            raise SvdValueError(
                f"scheduler: got {scheduler!r} ({error}), expected an address such as 'tcp://host:8786', which `dask "
                "scheduler` prints, or 'local'"
            ) from None
    return scheduler


def on_a_cluster(tasks: Sequence[Task], jobs: int, scheduler: str) -> Ended:
    """Do tasks on a Dask cluster: the one with a scheduler at this address, or "local" for one of our own.

    All its machines must see the run folder under the same path.
    """
    from distributed import Client, LocalCluster

    left = list(tasks)
    if scheduler == "local":
        threads = {name: str(_threads(jobs)) for name in ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        with (
            LocalCluster(jobs, threads_per_worker=1, env=threads, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            yield from _with_client(client, left)
        return
    gone = time.monotonic()
    while left:
        try:
            with Client(scheduler, timeout=min(10.0, PATIENCE)) as client:
                client.wait_for_workers(1, timeout=PATIENCE)
                for task, said in _with_client(client, left):
                    left.remove(task)
                    yield task, said
                    gone = time.monotonic()
        except (OSError, TimeoutError) as error:  # Dask's errors of communication are among these
            if time.monotonic() - gone > PATIENCE:
                raise ClusterError(
                    f"scheduler: nothing answers at {scheduler!r} ({error}); start one with `dask scheduler` and "
                    "workers with `dask worker ADDRESS`, then start the sweep again: it does only what is missing"
                ) from None
            time.sleep(1)


def _with_client(client: Any, tasks: Sequence[Task]) -> Ended:
    """Do tasks by a client of Dask."""
    from distributed import KilledWorker, as_completed
    from distributed.client import FutureCancelledError

    _require_this_version(client)

    def submit(task: Task) -> Any:
        return client.submit(_do_with, _version(), task, pure=False, retries=MOST_DEATHS)

    own = {submit(task): task for task in tasks}
    waiting, deaths = as_completed(own), 0
    for future in waiting:
        task = own[future]
        try:
            said = future.result()
        except KilledWorker:
            deaths = _one_more(deaths)
            again = submit(task)
            own[again] = task
            waiting.add(again)
            continue
        except FutureCancelledError as error:  # the scheduler is gone, with all that it knew
            raise TimeoutError(str(error)) from error
        deaths = 0
        yield task, said


def _do_with(version: str, task: Task) -> str:
    """Do a run on a worker, which may have come after all had been asked for their version."""
    if version != _version():
        return f"a worker has svd_numpy {_version()}, the sweep {version}; install the same version there"
    return do(task)


def _version() -> str:
    from svd_numpy import __version__

    return __version__


def _require_this_version(client: Any) -> None:
    """Raise unless every worker has this version of the package: another one may give other bits."""
    own = _version()
    try:
        others = {address: version for address, version in client.run(_version).items() if version != own}
    except ImportError as error:
        raise SvdValueError(f"scheduler: a worker cannot import svd_numpy ({error}); install it there, too") from None
    if others:
        address, version = next(iter(others.items()))
        raise SvdValueError(
            f"scheduler: the worker {address} has svd_numpy {version}, this process has {own}; install the same version"
        )
