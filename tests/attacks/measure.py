"""Runs every hostile input as a process of its own, and measures what its refusal took.

    python tests/attacks/measure.py [--inventions] [NAME ...]

With --inventions, those of `inventions.py` and `oddities.py`: some of them are accepted. The
figures of `modelcut docs security` are from this command.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path


def _launcher() -> tuple[int, int]:
    """A small process that starts the others: Linux counts a parent's memory as its child's."""
    ours, theirs = os.pipe(), os.pipe()
    if os.fork():
        os.close(ours[0])
        os.close(theirs[1])
        return theirs[0], ours[1]
    os.close(ours[1])
    os.close(theirs[0])
    with os.fdopen(ours[0]) as asked, os.fdopen(theirs[1], "w") as answers:
        for text in asked:
            answers.write(json.dumps(_run(*json.loads(text))) + "\n")
            answers.flush()
    os._exit(0)


def _run(line: list[str], folder: str) -> tuple[int, str, str, float, int]:
    with tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as out:
        child = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (err, out):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
    seconds = used.ru_utime + used.ru_stime
    return child.returncode, texts[0], texts[1], seconds, used.ru_maxrss * 1024


_ANSWERS, _ASKED = _launcher()

import numpy as np  # noqa: E402 - the launcher stays small

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import corpus  # noqa: E402 - once its folder is known
import inventions  # noqa: E402

_PROGRESS = re.compile(r"modelcut: \d+ s: .*\n")
_UNSAFE = ("\x1b", "\u202e", "\n::", "root:x", "Traceback")


def main() -> None:
    """Prints what went wrong, and the figures."""
    wanted = [word for word in sys.argv[1:] if word != "--inventions"]
    seconds, sizes, wrong = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        invented = "--inventions" in sys.argv
        for case in inventions.cases(folder, wanted) if invented else corpus.cases(folder):
            if wanted and not any(word in case.name for word in wanted):
                continue
            words = list(case.arguments)
            start = ["env", *(words.pop(0) for _ in words.copy() if "=" in words[0])]
            said, cpu, size = run([*start, sys.executable, "-m", "modelcut", *words], folder)
            if said[0] not in case.codes or not _sound(*said):
                wrong.append(case.name)
                print(f"WRONG {case.name}: {said[:2]}")
            seconds.append(cpu)
            sizes.append(size)
            if cpu > 1.5 or size > 200e6:
                print(f"much  {case.name}: {cpu:.2f} CPU s, {size / 1e6:.0f} MB")
        markers = sum(p.is_file() for p in folder.rglob("*.marker"))
    print(f"{len(seconds) - len(wrong)} of {len(seconds)} right, {markers} executed")
    for what, values, unit in (("CPU", seconds, "s"), ("memory", np.array(sizes) / 1e6, "MB")):
        shown = ", ".join(f"p{q} {np.percentile(values, q):.2f}" for q in (50, 90, 99, 100))
        print(f"{what}: {shown} {unit}")


def _sound(code: int, err: str, out: str) -> bool:
    """Whether a refusal is one line, and nothing moves the cursor or leaks."""
    if any(text in err + out for text in _UNSAFE):
        return False
    line = _PROGRESS.sub("", err)
    refused = code > 1 and not (code == 3 and not line)  # `scan` tells on stdout
    return not refused or (line.startswith("modelcut: ") and line.count("\n") == 1)


def run(line: list[str], folder: Path) -> tuple[tuple[int, str, str], float, float]:
    """Exit code and streams of a command, its CPU seconds, and the bytes of its largest process."""
    os.write(_ASKED, json.dumps([line, str(folder)]).encode() + b"\n")
    text = b""
    while not text.endswith(b"\n"):
        text += os.read(_ANSWERS, 1 << 20)
    code, err, out, seconds, size = json.loads(text)
    return (code, err, out), seconds, size


if __name__ == "__main__":
    main()
