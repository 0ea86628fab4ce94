"""A process of its own for work that may crash: a request by stdin, the answer to a file.

`host` is for networks that are asked again and again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelcut import errors
from modelcut.errors import InputError, ModelcutError, ResourceError


def ask(module: str, request: Mapping[str, Any], *, what: str, hint: str) -> dict[str, Any]:
    """Runs a module below `modelcut.engines` on a request.

    Args:
        module: name of the child's module, which calls `answer`.
        request: plain JSON data; `source` is a scratch file, `shown` what messages call it.
        what: who it is that may crash, and on what, in words with one gap for how it ended.
        hint: what the user can do about a crash.

    Raises:
        ModelcutError: as the child says, or because it crashed, or ran out of the time that it
            gives itself (`serve.wind`).
    """
    with tempfile.TemporaryDirectory(prefix="modelcut-") as folder:
        answer = Path(folder) / "answer.json"
        done = subprocess.run(
            command(module, str(answer)),
            input=json.dumps(request).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            env=environment(),
        )
        if not answer.exists():
            raise ended(done.returncode, f"{request['shown']}: {what}", hint)
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in found:
        kind = getattr(errors, str(found["error"]), InputError)
        raise kind(found["message"], found["hint"])
    return found


def answer(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The other side: reads the request, does the work, and writes facts or the error."""
    request = json.load(sys.stdin)
    try:
        found = work(request)
    except ModelcutError as error:
        found = {
            "error": type(error).__name__,
            "message": error.message.replace(request["source"], request["shown"]),
            "hint": error.hint,
        }
    Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")


def command(module: str, *arguments: str) -> list[str]:
    """What starts a module below `modelcut.engines`.

    With only `-m` the working folder would come first in the module search path.
    """
    start = (
        "import sys; sys.path[:1] = sys.path[:1] if sys.path[0] else []; import runpy; "
        f"runpy.run_module('modelcut.engines.{module}', run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", start, *arguments]


def environment() -> dict[str, str]:
    """The child must find the same modelcut as this process; GPUs are for who asks for them."""
    package = str(Path(__file__).parents[3])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "CUDA_VISIBLE_DEVICES": "-1",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TMPDIR": tempfile.gettempdir(),  # where this process, or who watches it, cleans up
    }


def resident(process: int) -> int:
    """Bytes of memory of a process that are its alone; 0 where that cannot be told."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        sizes = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()
        return os.sysconf("SC_PAGE_SIZE") * (int(sizes[1]) - int(sizes[2]))
    return 0


def ended(code: int, what: str, hint: str, *, spent: str = "") -> ModelcutError:
    """What to tell of a process that is no more.

    Args:
        code: exit code of the process; minus the number of a signal.
        what: who, and on what, with one gap for how it ended.
        hint: what to do where it crashed.
        spent: what was too much, where that was it: "after 9 s of CPU".
    """
    if code in (-signal.SIGXCPU, -signal.SIGALRM):
        stopped = f", and was stopped {spent}" if spent else ", and was stopped"
        return InputError(
            what.format("came to no end") + stopped,
            "a loop in it has none, or it is too large for this machine",
        )
    if code == -signal.SIGKILL:
        return ResourceError(what.format("was killed"), "most likely for want of memory")
    return InputError(what.format(death(code)), hint)


def death(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        try:
            return f"crashed ({signal.Signals(-code).name})"
        except ValueError:
            return f"crashed (signal {-code})"
    return f"ended with code {code}"
