"""Who takes part in a training: this process only, its devices, or a cluster by `TF_CONFIG`.

Only what the environment says; `engines/team.py` starts it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Literal

from modelcut.errors import UsageError
from modelcut.safety import printable

Distribute = Literal["auto", "none", "mirrored", "multiworker"]

_JOBS = ("chief", "worker")


@dataclass(frozen=True)
class Workers:
    """The machines of a training.

    Attributes:
        addresses: host:port of each process, the chief's first.
        index: which of them this process is.
        own_chief: the first is a job of its own, so that TensorFlow counts workers after it.
    """

    addresses: tuple[str, ...]
    index: int
    own_chief: bool = False

    @property
    def chief(self) -> bool:
        """Whether this process writes the files."""
        return self.index == 0


def from_environment() -> Workers | None:
    """What `TF_CONFIG` says; None where it names no cluster of several processes.

    Raises:
        UsageError: it cannot be understood.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        data: Any = json.loads(text)
    except ValueError as error:
        raise UsageError(f"TF_CONFIG: is not JSON: {printable(str(error), 80)}") from None
    cluster = data.get("cluster") if isinstance(data, dict) else None
    if not cluster:
        return None
    _check(cluster)
    jobs = {job: cluster.get(job, []) for job in _JOBS}
    if len(jobs["chief"]) > 1:
        raise UsageError("TF_CONFIG: cluster: several chiefs", "name one; it writes the files")
    addresses = [address for job in _JOBS for address in jobs[job]]
    if len(set(addresses)) < len(addresses):
        raise UsageError("TF_CONFIG: cluster: an address is listed twice")
    task = data.get("task")
    kind = task.get("type") if isinstance(task, dict) else None
    index = task.get("index") if isinstance(task, dict) else None
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if kind not in _JOBS or type(index) is not int or not 0 <= index < len(jobs[kind]):
        raise UsageError(
            f"TF_CONFIG: task: {printable(json.dumps(task), 80)} is not in the cluster",
            'say which this process is, such as {"type": "worker", "index": 0}',
        )
    if len(addresses) < 2:
        return None
    before = len(jobs["chief"]) if kind == "worker" else 0
    return Workers(tuple(addresses), index + before, bool(jobs["chief"]))


def _check(cluster: Any) -> None:
    """Holds the part that names the machines against what a training can use."""
    if not isinstance(cluster, dict):
        raise UsageError("TF_CONFIG: cluster: is not a mapping of jobs to addresses")
    for job, addresses in cluster.items():
        if job not in _JOBS:
            raise UsageError(
                f"TF_CONFIG: cluster: {printable(str(job), 40)!r} takes no part in training",
                "name chief and worker only",
            )
        if not isinstance(addresses, list) or not all(
            isinstance(one, str) and _is_address(one) for one in addresses
        ):
            raise UsageError(f"TF_CONFIG: cluster: {job}: is not a list of host:port")


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536
