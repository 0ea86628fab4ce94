"""Processes of their own that run the command line, as a scheduler would start them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

CHILD = Path(__file__).with_name("child.py")
ROOT = CHILD.parents[2]


def begin(arguments, *, config=None, devices=1, die_at=0):
    """Starts modelcut; see child.py."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CONFIG", None)
    if config is not None:
        environment["TF_CONFIG"] = json.dumps(config)
    return subprocess.Popen(
        [sys.executable, str(CHILD), str(devices), str(die_at), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(processes, seconds=540):
    """The exit code of each, and what it said on stderr; none outlives the test.

    Lines about progress, which a slow machine is told after 10 seconds, are left out.
    """
    try:
        said = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = [re.sub(r"modelcut: \d+ s: .*\n", "", text) for text in said]
    return list(zip([process.returncode for process in processes], said, strict=True))
