"""The devices and processes that train one network together, on `tf.distribute`.

Each replica takes its part of the same batch; gradients are summed over all of them, so that every
replica makes the same update of its own copy. All that decides (masks, the judging of an epoch) is
the chief's.

Variables are made "on read, of the first replica": a replica writes its copy without asking the
others, and outside of replicas the first copy is read. Nothing but gradients, the statistics of
batch normalizations, and the chief's messages are sent over the network.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from modelcut.engines import imported, quiet
from modelcut.engines.keras.cluster import Distribute, Workers, from_environment
from modelcut.errors import PeerError, UsageError
from modelcut.safety import printable

_WAIT_SECONDS = 300
_HEARTBEAT_SECONDS = 20
_TASK = re.compile(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)")


class Team:
    """See the module; this one is a process with one device.

    Attributes:
        workers: number of processes that train together.
        worker: index of this process; the chief is 0.
        replicas: number of replicas that a batch is divided among.
    """

    workers = 1
    worker = 0
    replicas = 1

    @property
    def chief(self) -> bool:
        """Whether this process writes the files."""
        return self.worker == 0

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Around all that makes variables."""
        return contextlib.nullcontext()

    def run(self, body: Callable[..., Any], *arguments: Any) -> Any:
        """Calls `body` in each replica; what the first one of this process gives."""
        return body(*arguments)

    def place(self) -> Any:
        """The number of the replica that asks."""
        return 0

    def total(self, parts: list[Any]) -> list[Any]:
        """Tensors summed over all replicas; called by each of them."""
        return parts

    def apart(self, part: Any) -> Any:
        """A tensor in a row of its own, with a row of zeros for each other replica.

        `total` makes of it the tensors of all replicas, shape (replicas, …).
        """
        return part[None]

    def agreed(self, numbers: Sequence[float]) -> list[float]:
        """The chief's numbers, in every process."""
        return list(numbers)

    def from_chief(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The chief's arrays, in every process."""
        return list(arrays)

    def check_same(self, digests: Mapping[str, bytes]) -> None:
        """Holds what each process has against the others'.

        Raises:
            UsageError: they differ; what differs, and where.
        """

    def finish(self) -> None:
        """Ends the work together: workers wait until the chief has published its files."""

    def translated(self) -> contextlib.AbstractContextManager[Any]:
        """Turns TensorFlow's errors about other processes into ours."""
        return contextlib.nullcontext()


class _Several(Team):
    """Several replicas, by a strategy of TensorFlow."""

    def __init__(self, strategy: Any, cluster: Workers | None = None) -> None:
        import tensorflow as tf

        self._tf = tf
        self._strategy = strategy
        self._cluster = cluster
        self.replicas = int(strategy.num_replicas_in_sync)
        if cluster is not None:
            self.workers, self.worker = len(cluster.addresses), cluster.index
        self._sums: dict[Any, Callable[..., Any]] = {}

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        tf = self._tf

        def local(create: Callable[..., Any], **how: Any) -> Any:
            how["synchronization"] = tf.VariableSynchronization.ON_READ
            how["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA
            how["trainable"] = False  # TensorFlow's own lists of variables are not used
            return create(**how)

        with self.translated(), self._strategy.scope(), tf.variable_creator_scope(local):
            yield

    def run(self, body: Callable[..., Any], *arguments: Any) -> Any:
        tf = self._tf
        found = self._strategy.run(body, args=arguments)
        return tf.nest.map_structure(
            lambda part: self._strategy.experimental_local_results(part)[0], found
        )

    def place(self) -> Any:
        context = self._tf.distribute.get_replica_context()
        return self._tf.cast(context.replica_id_in_sync_group, self._tf.int32)

    def total(self, parts: list[Any]) -> list[Any]:
        context = self._tf.distribute.get_replica_context()
        return context.all_reduce(self._tf.distribute.ReduceOp.SUM, parts)

    def apart(self, part: Any) -> Any:
        tf = self._tf
        rows = tf.one_hot(self.place(), self.replicas, dtype=part.dtype)
        return tf.tensordot(rows, part, axes=0)

    def agreed(self, numbers: Sequence[float]) -> list[float]:
        found = self.from_chief([np.asarray(numbers, np.float64)])
        return [float(x) for x in found[0]]

    def from_chief(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self.workers == 1 or not arrays:
            return list(arrays)
        mine = [a.astype(np.float32) if a.dtype == bool else a for a in arrays]
        sums = self._summed(mine if self.chief else [np.zeros_like(a) for a in mine])
        return [s.astype(a.dtype) for s, a in zip(sums, arrays, strict=True)]

    def check_same(self, digests: Mapping[str, bytes]) -> None:
        if self.workers == 1:
            return
        own = np.stack([np.frombuffer(d, np.uint8) for d in digests.values()]).astype(np.float32)
        table = np.zeros((self.workers, *own.shape), np.float32)
        table[self.worker] = own
        table = self._summed([table])[0]
        for number, what in enumerate(digests):
            others = [w for w in range(1, self.workers) if (table[w] != table[0])[number].any()]
            if others:
                names = ", ".join(map(str, others))
                raise UsageError(
                    f"worker {names} has another {what} than the chief (worker 0)",
                    "every worker is started with the same command on the same files",
                )

    def _summed(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Sums over the processes, each of which counts once."""
        tf = self._tf
        key = tuple((a.shape, a.dtype.name) for a in arrays)
        if key not in self._sums:

            def each(parts: list[Any]) -> list[Any]:
                first = self.place() % (self.replicas // self.workers) == 0
                mine = [tf.where(first, part, tf.zeros_like(part)) for part in parts]
                return self.total(mine)

            self._sums[key] = tf.function(lambda parts: self.run(each, parts))
        with self.translated(), quiet():
            found = self._sums[key]([tf.convert_to_tensor(a) for a in arrays])
            return [part.numpy() for part in found]

    def finish(self) -> None:
        if self.workers == 1:
            return
        one = [np.ones((), np.float32)]
        if not self.chief:
            self._summed(one)
        else:  # the work is done, and lost workers do not undo it
            with contextlib.suppress(PeerError):
                self._summed(one)
        # Nobody leaves before all have heard.
        with contextlib.suppress(PeerError):
            self._summed(one)

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        tf = self._tf
        try:
            yield
        except (
            tf.errors.UnavailableError,
            tf.errors.AbortedError,
            tf.errors.DeadlineExceededError,
            tf.errors.CancelledError,
        ) as error:
            if self.workers == 1:
                raise
            raise PeerError(
                f"{self._lost(str(error))} was lost, or ended with an error",
                "nothing was written; see what it says, and start all workers again",
            ) from None

    def _lost(self, text: str) -> str:
        assert self._cluster is not None
        for kind, number in _TASK.findall(text):
            index = int(number)
            if kind == "worker" and self._cluster.own_chief:
                index += 1
            if index != self.worker and index < self.workers:
                who = "the chief, worker 0" if index == 0 else f"worker {index}"
                return f"{who} ({self._cluster.addresses[index]})"
        return "the other worker" if self.workers == 2 else "another worker"


def start(distribute: Distribute) -> Team:
    """The team of this process; with a cluster, waits until all workers are there.

    Raises:
        UsageError: there are no such devices, or no cluster.
        PeerError: a worker did not come.
    """
    cluster = from_environment() if distribute in ("auto", "multiworker") else None
    if distribute == "multiworker" and cluster is None:
        raise UsageError(
            "--distribute multiworker: TF_CONFIG names no cluster of several workers",
            "`modelcut docs distributed` has examples for Slurm and Kubernetes",
        )
    if distribute == "none":
        return Team()
    if cluster is not None:
        return _join(cluster)
    if distribute == "auto" and not _may_have_gpus():
        return Team()
    with quiet():
        tf = imported("tensorflow")
        gpus = tf.config.list_logical_devices("GPU")
        devices = gpus or tf.config.list_logical_devices("CPU")
    if distribute == "mirrored" and len(devices) < 2:
        raise UsageError(
            f"--distribute mirrored: TensorFlow sees {len(gpus)} GPU on this machine",
            "it takes two or more",
        )
    if len(devices) < 2 or (distribute == "auto" and not gpus):
        return Team()
    with quiet():
        return _Several(tf.distribute.MirroredStrategy([device.name for device in devices]))


def _may_have_gpus() -> bool:
    """Whether TensorFlow has to be asked, which takes time."""
    return any(os.path.exists(path) for path in ("/dev/nvidia0", "/dev/dxg", "/dev/kfd"))


def _join(cluster: Workers) -> Team:
    with quiet():
        tf = imported("tensorflow")
        _be_patient(cluster)
    try:
        with quiet():
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError, OSError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, tf.errors.DeadlineExceededError) or "imeout" in text:
            raise PeerError(
                f"not all {len(cluster.addresses)} workers connected within {_WAIT_SECONDS} s",
                "start them all, and see that their addresses in TF_CONFIG can be reached",
            ) from None
        raise PeerError(
            f"the workers cannot connect: {printable(text, 200)}",
            f"this worker has to listen at {cluster.addresses[cluster.index]}",
        ) from None
    return _Several(strategy, cluster)


def _be_patient(cluster: Workers) -> None:
    """How long a start may take, and how soon a lost worker is missed.

    TensorFlow has no public call for it, and would wait for hours.
    """
    with contextlib.suppress(ImportError, AttributeError, TypeError):
        from tensorflow.python.distribute import collective_all_reduce_strategy as own
        from tensorflow.python.eager import context

        job = own.coordination_config_pb2.CoordinatedJob
        chiefs = int(cluster.own_chief)
        jobs = [job(name="chief", num_tasks=1)] if chiefs else []
        if len(cluster.addresses) > chiefs:
            jobs.append(job(name="worker", num_tasks=len(cluster.addresses) - chiefs))
        leader = "/job:chief/replica:0/task:0" if chiefs else "/job:worker/replica:0/task:0"
        context.context().configure_coordination_service(
            service_type="standalone",
            service_leader=leader,
            cluster_register_timeout_in_ms=_WAIT_SECONDS * 1000,
            heartbeat_timeout_in_ms=_HEARTBEAT_SECONDS * 1000,
            coordinated_jobs=jobs,
        )
