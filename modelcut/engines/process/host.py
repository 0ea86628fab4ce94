"""A network in a process of its own, for engines whose C++ ends the process on some inputs.

A damaged graph makes TensorFlow and LiteRT stumble in ways that no `except` sees: there, that is an
error message, and a loop without an end is ended.
"""

from __future__ import annotations

import contextlib
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelcut import errors
from modelcut.data import InputSpec
from modelcut.engines import OutputSpec
from modelcut.engines.process import child, wire
from modelcut.errors import InputError
from modelcut.safety import printable

LOAD_SECONDS = 600
"""Seconds of CPU that loading may take."""
_WITHOUT = "modelcut can still edit it; leave out --test"


class Host:
    """A process that holds networks, and is asked for one thing at a time.

    Attributes:
        who: name of the engine in messages.
    """

    def __init__(self, who: str, module: str, *arguments: str) -> None:
        """Starts it.

        Args:
            who: name of the engine in messages.
            module: below `modelcut.engines`; it calls `serve.serve`.
            arguments: command-line arguments of the child process.
        """
        self.who = who
        self._process = subprocess.Popen(
            child.command(module, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child.environment(),
        )
        self._end = weakref.finalize(self, _stop, self._process)

    def ask(
        self,
        request: Mapping[str, Any],
        arrays: Sequence[np.ndarray] = (),
        *,
        limit: float | None,
        doing: str,
        spent: str = "",
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Sends a request and waits for the answer.

        Args:
            request: plain JSON data.
            arrays: arrays that are sent along with the request.
            limit: seconds of CPU that it may take; None: the other side sees to that.
            doing: what it is, for messages: load, run.
            spent: what was too much, where `limit` is None.

        Raises:
            ModelcutError: as the process says, or because it is no more.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(BrokenPipeError):  # what ended the process is said below
            wire.send(stdin, {**request, "limit": limit}, arrays)
        try:
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

    @property
    def ended(self) -> bool:
        """Whether it is no more."""
        return self._process.poll() is not None

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
    """

    loss: Any = None

    def __init__(self, host: Host, request: Mapping[str, Any], shown: str) -> None:
        """Has it loaded.

        Args:
            host: the process that runs the network.
            request: the network to load, in the form that the child's module expects.
            shown: name of the file in messages.
        """
        self.shown = shown
        self._host = host
        about, _ = host.ask(request, limit=LOAD_SECONDS, doing="load")
        self._number = int(about["number"])
        self.engine = str(about["engine"])
        self.fixed_batch: int | None = about["fixed_batch"]
        self.inputs = tuple(
            InputSpec(e["name"], _shape(e["shape"]), e["dtype"]) for e in about["inputs"]
        )
        self.outputs = tuple(
            OutputSpec(e["name"], _shape(e["shape"]), e["activation"], keyed=e["keyed"])
            for e in about["outputs"]
        )
        self.seconds: float | None = None

    def _run(
        self, arrays: Sequence[np.ndarray], limit: float | None, spent: str
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Rows through the network.

        Raises:
            ModelcutError: the file is named in it.
        """
        try:
            answer, outputs = self._host.ask(
                {"run": self._number}, arrays, limit=limit, doing="run", spent=spent
            )
        except errors.ModelcutError as error:
            error.message = f"{self.shown}: {error.message}"
            raise
        self.seconds = float(answer["seconds"])
        return answer, outputs


def _shape(sizes: Sequence[int | None]) -> tuple[int | None, ...]:
    return tuple(None if n is None or n < 0 else n for n in sizes)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()
