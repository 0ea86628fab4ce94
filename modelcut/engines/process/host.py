"""A network in a process of its own, for engines whose C++ ends the process on some inputs.

A damaged graph makes TensorFlow and LiteRT stumble in ways that no `except` sees: there, that is an
error message, and what comes to no end, or takes all memory, is ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from modelcut import errors
from modelcut.data import InputSpec
from modelcut.engines import Bounds, OutputSpec
from modelcut.engines.process import child, wire
from modelcut.errors import InputError, ResourceError
from modelcut.safety import printable

LOAD_SECONDS = 600
"""Seconds of CPU that loading may take, where nothing is known of the network."""
_LOOK_MS = 200
"""Milliseconds between two looks at the memory of a process that works."""
_WITHOUT = "modelcut can still edit it; leave out --test"


class Host:
    """A process that holds networks, and is asked for one thing at a time.

    Attributes:
        who: name of the engine in messages.
        loaded: number of networks that it was given so far.
    """

    def __init__(self, who: str, module: str, *arguments: str) -> None:
        """Starts it, and does not wait until it has started.

        Args:
            who: name of the engine in messages.
            module: below `modelcut.engines`; it calls `serve.serve`.
            arguments: command-line arguments of the child process.
        """
        self.who = who
        self.loaded = 0
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._gone: list[int] = []
        self._bounds: dict[int, Bounds] = {}
        self._process = subprocess.Popen(
            child.command(module, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child.environment(),
        )
        self._end = weakref.finalize(self, _stop, self._process, self._owner)

    def ask(
        self,
        request: Mapping[str, Any],
        arrays: Sequence[np.ndarray] = (),
        *,
        limit: float | None,
        doing: str,
        spent: str = "",
        bounds: Bounds | None = None,
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Sends a request and waits for the answer.

        Args:
            request: plain JSON data.
            arrays: arrays that are sent along with the request.
            limit: seconds of CPU that it may take; None: the other side sees to that.
            doing: what it is, for messages: load, run.
            spent: what was too much, where `limit` is None.
            bounds: of the network that is loaded.

        Raises:
            ModelcutError: as the process says, or because it is no more.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        most = self._most(bounds)
        with self._lock, self._answered():
            with contextlib.suppress(BrokenPipeError):  # what ended the process is said below
                message = {**request, "limit": limit, "gone": self._gone}
                self._gone = []
                wire.send(stdin, message, arrays)
            try:
                self._watch(stdout, most)
                answer, found = wire.receive(stdout)
            except EOFError:
                raise self._ended(spent or f"after {limit:.0f} s of CPU") from None
        if "error" not in answer:
            return answer, found
        kind = getattr(errors, answer["error"], None) if answer["error"] else None
        if kind is not None:
            raise kind(answer["message"], answer["hint"])
        reason = printable(" ".join(answer["message"].split()), 240)
        raise InputError(f"{self.who} cannot {doing} it: {reason}", _WITHOUT)

    def holds(self, number: int, bounds: Bounds | None) -> None:
        """Notes that a network is there, and what it may take."""
        self.loaded += 1
        self._bounds[number] = bounds or Bounds()

    def drop(self, number: int) -> None:
        """Has a network forgotten: at once, or where the process works, with the next request."""
        self._bounds.pop(number, None)
        self._gone.append(number)
        stdin = self._process.stdin
        if not self.usable or stdin is None or not self._lock.acquire(blocking=False):
            return  # may be called by the garbage collector, in the midst of anything
        try:
            gone, self._gone = self._gone, []
            with contextlib.suppress(OSError, ValueError):
                wire.send(stdin, {"limit": None, "gone": gone, "quiet": True})
        finally:
            self._lock.release()

    @property
    def networks(self) -> int:
        """How many it holds now."""
        return len(self._bounds)

    @property
    def ended(self) -> bool:
        """Whether it is no more."""
        return self._process.poll() is not None

    @property
    def usable(self) -> bool:
        """Whether this process may ask it: a fork of its parent may not."""
        return self._owner == os.getpid() and not self.ended

    def close(self) -> None:
        """Ends it for good."""
        self._end()

    @contextlib.contextmanager
    def _answered(self) -> Any:
        """Ends the process where its answer was not waited for: the next one would be another's."""
        try:
            yield
        except BaseException:
            self._end()
            raise

    def _most(self, bounds: Bounds | None) -> float:
        """Bytes that it may take for all its networks; 0: no limit."""
        each = [one for one in (*self._bounds.values(), bounds) if one is not None and one.memory]
        return min((sum(one.memory for one in each), *(one.most for one in each if one.most)))

    def _watch(self, stdout: IO[bytes], most: float) -> None:
        """Waits for the first byte of an answer, with an eye on the memory.

        Raises:
            ResourceError: it took more than it may, and was ended.
        """
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        while not poll.poll(_LOOK_MS):
            if most and (taken := child.resident(self._process.pid)) > most:
                raise ResourceError(
                    f"{self.who} was stopped: it took {taken / 1e9:.3g} GB of memory, and may take "
                    f"{most / 1e9:.3g} GB for it",
                    "--max-memory allows more",
                )

    def _ended(self, spent: str) -> errors.ModelcutError:
        return child.ended(
            self._process.wait(10),
            f"{self.who} {{}} on it",
            f"the file is damaged, or made for another version; {_WITHOUT}",
            spent=spent,
        )


class NetworkApart:
    """A network of a `Host`; see `Network`.

    Attributes:
        seconds: duration of the last call of `predict`, without the transfer.
        inside: as of `KerasNetwork`.
    """

    loss: Any = None

    def __init__(
        self, host: Host, request: Mapping[str, Any], shown: str, bounds: Bounds | None = None
    ) -> None:
        """Has it loaded.

        Args:
            host: the process that runs the network.
            request: the network to load, in the form that the child's module expects.
            shown: name of the file in messages.
            bounds: what it may take.
        """
        self.shown = shown
        self._host = host
        limit = bounds.load_seconds if bounds else LOAD_SECONDS
        about, _ = host.ask(request, limit=limit, doing="load", bounds=bounds)
        self._number = int(about["number"])
        host.holds(self._number, bounds)
        weakref.finalize(self, host.drop, self._number).atexit = False
        self.engine = str(about["engine"])
        self.fixed_batch: int | None = about["fixed_batch"]
        self.inside: tuple[str, ...] = tuple(about.get("inside", ()))
        self.inputs = tuple(
            InputSpec(e["name"], _shape(e["shape"]), e["dtype"]) for e in about["inputs"]
        )
        self.outputs = tuple(
            OutputSpec(
                e["name"],
                _shape(e["shape"]),
                e["activation"],
                e.get("alias", ""),
                keyed=e["keyed"],
            )
            for e in about["outputs"]
        )
        self.seconds: float | None = None

    def _run(
        self,
        arrays: Sequence[np.ndarray],
        limit: float | None,
        spent: str,
        *,
        exact: bool = False,
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Rows through the network.

        Raises:
            ModelcutError: the file is named in it.
        """
        try:
            answer, outputs = self._host.ask(
                {"run": self._number, "exact": exact}, arrays, limit=limit, doing="run", spent=spent
            )
        except errors.ModelcutError as error:
            error.message = f"{self.shown}: {error.message}"
            raise
        self.seconds = float(answer["seconds"])
        return answer, outputs


def _shape(sizes: Sequence[int | None]) -> tuple[int | None, ...]:
    return tuple(None if n is None or n < 0 else n for n in sizes)


def _stop(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # a fork: the process is its parent's
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()
