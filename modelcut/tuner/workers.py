"""Where trials are done: in this process, or by Dask's workers on this or other machines.

Dask does the scheduling: a trial whose worker is lost is done by another one.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from modelcut.errors import ResourceError, UsageError
from modelcut.tuner.goal import Goal
from modelcut.tuner.trial import Result, Runner, Setting

_THREADS = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)
RETRIES = 3
"""So often a trial is begun again whose worker is lost."""


@dataclass(frozen=True)
class Task:
    """A trial, or one that is shorter.

    Attributes:
        number: number of the trial.
        recipe: the recipe as plain data.
        fraction: fraction of the epochs that is trained.
    """

    number: int
    recipe: Mapping[str, Any]
    fraction: float = 1.0


class Workers(Protocol):
    """Does tasks.

    Attributes:
        count: how many tasks are worth submitting before one is awaited.
        name: where they are done, for the record.
    """

    count: int
    name: str

    def submit(self, task: Task) -> None:
        """Begins a task, or keeps it for later."""

    def next(self) -> tuple[Task, Result]:
        """Waits for a task to be done."""


class Here:
    """In this process, one after the other."""

    count = 1
    name = "this process"

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._waiting: list[Task] = []

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def next(self) -> tuple[Task, Result]:
        task = self._waiting.pop(0)
        return task, self._runner.run(task.recipe, task.number, task.fraction)


class Cluster:
    """By the workers of a Dask cluster."""

    def __init__(self, client: Any, setting: Setting, goal: Goal, name: str) -> None:
        """Joins a cluster.

        Args:
            client: a client of `dask.distributed`.
            setting: what all trials have in common; every worker must see its files.
            goal: the objectives and limits.
            name: where it is, for the record.
        """
        from distributed import as_completed

        self._client = client
        self._setting = pickle.dumps((setting, goal))
        self._open: dict[Any, Task] = {}
        self._done = as_completed()
        self.count = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        self.name = name

    def submit(self, task: Task) -> None:
        future = self._client.submit(_work, self._setting, task, pure=False, retries=RETRIES)
        self._open[future.key] = task
        self._done.add(future)

    def next(self) -> tuple[Task, Result]:
        future = next(self._done)
        task = self._open.pop(future.key)
        try:
            return task, future.result()
        except Exception as error:  # noqa: BLE001 - Dask hands on whatever ended its worker
            why = " ".join(str(error).split())[:300]
            return task, Result(error=f"the worker was lost: {why}", fraction=task.fraction)


_RUNNERS: dict[bytes, Runner] = {}
_LOCK = threading.Lock()


def _work(setting: bytes, task: Task) -> Result:
    """Does a task in a worker, whose engine stays loaded between two of them."""
    # A worker has threads of its own; an engine runs one trial at a time.
    with _LOCK:
        if setting not in _RUNNERS:
            _RUNNERS.clear()
            _RUNNERS[setting] = Runner(*pickle.loads(setting))
        worker = f"-{os.getpid()}"
        return _RUNNERS[setting].run(task.recipe, task.number, task.fraction, worker)


@contextlib.contextmanager
def open_workers(
    setting: Setting,
    goal: Goal,
    *,
    workers: int = 1,
    scheduler: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Workers]:
    """The workers of a search; those that were started here are stopped at the end.

    Args:
        setting: what all trials have in common.
        goal: the objectives and limits.
        workers: number of local processes; 1: this one.
        scheduler: address of a Dask scheduler that is running, such as tcp://head:8786, or "".
        say: takes a line about progress.

    Raises:
        UsageError: Dask is not installed.
        ResourceError: no cluster can be started, or none is there.
    """
    if workers == 1 and not scheduler:
        yield Here(Runner(setting, goal))
        return
    if find_spec("distributed") is None:
        raise UsageError(
            "--workers and --scheduler need Dask", 'pip install "modelcut[search]" installs it'
        )
    with contextlib.ExitStack() as opened:
        try:
            client, name = _client(opened, workers, scheduler, say)
        except (OSError, TimeoutError, ValueError) as error:
            where = scheduler or f"{workers} local workers"
            why = " ".join(str(error).split())[:200]
            raise ResourceError(f"{where}: no Dask cluster: {why}") from None
        yield Cluster(client, setting, goal, name)


def _client(
    opened: contextlib.ExitStack, workers: int, scheduler: str, say: Callable[[str], None]
) -> tuple[Any, str]:
    import logging

    import dask
    from distributed import Client, LocalCluster

    # Clients are closed by name, not by `with`, which only the thread that opened them may end.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    opened.enter_context(
        dask.config.set(
            {
                "distributed.scheduler.allowed-failures": RETRIES,
                "distributed.worker.daemon": False,  # an engine may start processes
                "distributed.comm.timeouts.connect": "20s",
                # Dask would sample the stack of a trial a hundred times a second, and have the
                # allocator hand back what a training takes again at once.
                "distributed.worker.profile.enabled": False,
                "distributed.admin.system-monitor.gil.enabled": False,
                "distributed.nanny.pre-spawn-environ": _shared(workers),
            }
        )
    )
    if scheduler:
        say(f"joining {scheduler}")
        client = opened.enter_context(closing(Client(scheduler, timeout="20s")))
        found = len(client.scheduler_info(n_workers=-1)["workers"])
        if not found:
            client.wait_for_workers(1, timeout=60)
        return client, f"{found or 1} workers of {scheduler}"
    say(f"starting {workers} workers")
    cluster = opened.enter_context(
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
            memory_limit=0,
        )
    )
    return opened.enter_context(closing(Client(cluster))), f"{workers} local workers"


def _shared(workers: int) -> dict[str, str]:
    """Settings by which local workers share the processors, where the user says nothing."""
    each = str(max(1, (os.cpu_count() or 1) // workers))
    return {name: os.environ.get(name, each) for name in _THREADS}
