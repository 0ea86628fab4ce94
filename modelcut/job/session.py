"""What several jobs on one model share, so that none of it is done twice.

The original's network stays open and runs once over the test data; a training that an earlier job
has finished is taken from the folder of states.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelcut.arrays import digest as digests
from modelcut.job import start
from modelcut.job.check import Checked
from modelcut.job.checkpoint import FileKeeper
from modelcut.job.digest import Digest
from modelcut.job.evaluate import check_test, open_evaluator
from modelcut.job.request import Job, Say

if TYPE_CHECKING:
    from modelcut.engines import Network
    from modelcut.job.inference import Evaluator

_MOST_OUTPUTS = 256 << 20
"""Bytes of the original's outputs that are kept."""


class Session:
    """Shared by jobs that one process does after each other."""

    def __init__(self, states: Path | None = None, most_states: int = 2 << 30) -> None:
        """Nothing is opened yet.

        Args:
            states: folder for the states of finished trainings; None: they are not kept.
            most_states: bytes of states that are kept; the ones used longest ago are removed.
        """
        self._states = states
        self._most = most_states
        self._evaluators: dict[str, Evaluator] = {}

    def evaluator(self, checked: Checked, *, apart: bool, say: Say) -> Evaluator:
        """The original's network on the test data of a job; opened for the first such job.

        Args:
            checked: the job.
            apart: whether a network that is opened now may run in a process of its own.
            say: takes a line about progress.

        Raises:
            ModelcutError: it cannot be run, or the data or a gate does not fit it.
        """
        job = checked.job
        assert job.test is not None
        head = job.recipe.head
        key = json.dumps(
            [
                *(str(path.resolve()) for path in (job.model, job.test)),
                head.model_dump(mode="json", include={"data", "task", "from_logits"}),
                checked.writer.signatures,
            ]
        )
        if key not in self._evaluators:
            check_test(job.recipe, job.test, checked.model)
            found = open_evaluator(
                job.recipe,
                job.test,
                job.model,
                checked.model,
                job.trust,
                beside=checked.writer.signatures,
                compared=True,
                apart=apart,
                say=say,
            )
            self._evaluators[key] = replace(found, network=Recorded(found.network))
        found = self._evaluators[key]
        found.check(head.gates, compared=True)
        return found

    def kept(self, job: Job, digest: Digest) -> States | None:
        """The states of the trainings of a job, by what they depend on."""
        if self._states is None or not any(step.resumable for step in job.recipe.steps):
            return None
        return States(self._states, job, digest, self._most)


class Recorded:
    """A network that remembers its outputs: the same batch is run once."""

    def __init__(self, network: Network) -> None:
        """Wraps a network.

        Args:
            network: the network; single samples, as latency is measured on, are always run.
        """
        self._network = network
        self._known: dict[bytes, tuple[list[np.ndarray], float]] = {}
        self._bytes = 0
        self.seconds = 0.0
        self.engine = network.engine
        self.inputs = network.inputs
        self.outputs = network.outputs
        self.loss = network.loss
        self.fixed_batch = network.fixed_batch

    def predict(self, inputs: Mapping[str, np.ndarray], *, exact: bool = False) -> list[np.ndarray]:
        """See `engines.Network`; `seconds` is what the engine took, now or then."""
        key = b"" if exact else _key(inputs)
        if key in self._known:
            outputs, self.seconds = self._known[key]
            return outputs
        began = time.perf_counter()
        outputs = self._network.predict(inputs, exact=exact)
        around = time.perf_counter() - began
        inside = getattr(self._network, "seconds", None)
        self.seconds = around if inside is None else inside
        size = sum(part.nbytes for part in outputs)
        if key and self._bytes + size <= _MOST_OUTPUTS:
            self._known[key] = (outputs, self.seconds)
            self._bytes += size
        return outputs


def _key(inputs: Mapping[str, np.ndarray]) -> bytes:
    found = digests.hasher()
    for name, values in inputs.items():
        found.update(f"{name}{values.shape}{values.dtype}".encode())
        if values.dtype == object:
            found.update(json.dumps(values.tolist()).encode())
        else:
            found.update(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)
    return bytes(found.digest())


class States:
    """Finished trainings, each by the model, the data and the steps up to it."""

    def __init__(self, folder: Path, job: Job, digest: Digest, most: int) -> None:
        """Makes the folder if it is not there."""
        self._folder = folder
        self._most = most
        self._recipe = job.recipe
        self._of = start.identity(job, digest)
        folder.mkdir(parents=True, exist_ok=True)

    def keeper(self, step: int) -> StateKeeper:
        """The part of one step, by its number from 0."""
        recipe = self._recipe.to_dict()
        recipe = {
            **{name: recipe.get(name) for name in ("seed", "data", "task", "from_logits")},
            "steps": recipe["steps"][: step + 1],
            # The samples that a search sets aside are the same for all steps of a recipe.
            "set_aside": max(getattr(each, "set_aside", 0.0) for each in self._recipe.steps),
        }
        of = {**self._of, "recipe": json.dumps(recipe, sort_keys=True)}
        name = digests.of_text(json.dumps(of, sort_keys=True))[:40]
        return StateKeeper(self._folder / f"{name}.npz", most=self._most)

    def remove(self) -> None:
        """Keeps all: other jobs may begin alike."""


class StateKeeper(FileKeeper):
    """See `runtime.Keeper`: the finished state only, in a folder that is bounded."""

    def __init__(self, path: Path, *, most: int) -> None:
        super().__init__(path, every=float("inf"), writes=True)
        self._bound = most

    def load(self) -> Any:
        found = super().load()
        if found is not None:
            self._path.touch()
        return found

    def save(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        super().save(arrays, facts)
        bound(self._path.parent, self._bound)


def bound(folder: Path, most: int) -> None:
    """Removes the states that were used longest ago, until the others take `most` bytes."""
    found = []
    for path in folder.glob("*.npz"):
        try:
            about = path.stat()
        except OSError:  # another process has removed it
            continue
        found.append((about.st_mtime, about.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found, key=lambda each: each[:2]):
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size
