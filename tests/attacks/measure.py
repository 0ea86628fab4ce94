"""Runs every hostile input as a process of its own, and measures what its refusal took.

    python tests/attacks/measure.py [NAME ...]

The figures of `modelcut docs security` are from this command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from corpus import cases  # noqa: E402 - once its folder is known


def main() -> None:
    """Prints what went wrong, and the figures."""
    wanted = sys.argv[1:]
    seconds, sizes, wrong = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in cases(folder):
            if wanted and not any(word in case.name for word in wanted):
                continue
            said, cpu, size = run([sys.executable, "-m", "modelcut", *case.arguments])
            one_line = said[1].startswith("modelcut: ") and said[1].count("\n") == 1
            if said[0] not in case.codes or not one_line:
                wrong.append(case.name)
                print(f"WRONG {case.name}: {said}")
            seconds.append(cpu)
            sizes.append(size)
            if cpu > 1.5 or size > 200e6:
                print(f"much  {case.name}: {cpu:.2f} CPU s, {size / 1e6:.0f} MB")
        markers = len(list(folder.rglob("*.marker")))
    print(f"{len(seconds) - len(wrong)} of {len(seconds)} right, {markers} executed")
    for what, values, unit in (("CPU", seconds, "s"), ("memory", np.array(sizes) / 1e6, "MB")):
        shown = ", ".join(f"p{q} {np.percentile(values, q):.2f}" for q in (50, 90, 99, 100))
        print(f"{what}: {shown} {unit}")


def run(line: list[str]) -> tuple[tuple[int, str], float, float]:
    """Exit code and stderr of a command, its CPU seconds, and the bytes of its largest process."""
    with tempfile.TemporaryFile() as err:
        child = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=err)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        text = err.read().decode("utf-8", "replace")
    return (child.returncode, text), used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


if __name__ == "__main__":
    main()
