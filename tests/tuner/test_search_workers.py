"""A search on local worker processes, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import modelcut as package

DEMO = Path(package.__file__).parent / "demo"
SPACE = """
steps:
  - prune: magnitude
    sparsity: {range: [0.2, 0.6]}
  - quantize: cluster
    values: {choose: [6, 8, 12, 16, 32]}
"""


@pytest.mark.slow
def test_a_trial_whose_worker_is_killed_is_done_by_another(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    command = [
        *(sys.executable, "-m", "modelcut", "search", DEMO / "digits.h5"),
        *("-r", "space.yaml", "--validate", DEMO / "digits_test.csv", "--scale", "1/16"),
        *("--max-accuracy-drop", "0.02", "-o", "best.mcut", "--trials", "8", "--workers", "2"),
        "--json",
    ]
    done = tmp_path / "best.mcut.search" / "trials.jsonl"
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=out)
        killed = 0
        while process.poll() is None:
            time.sleep(0.2)
            records = done.read_text().splitlines() if done.is_file() else []
            if records and not killed:
                killed = -int(json.loads(records[-1])["worker"])
                os.kill(killed, signal.SIGKILL)
    assert process.returncode == 0
    assert killed
    found = json.loads((tmp_path / "best.search.json").read_text())
    assert [trial["error"] for trial in found["trials"]] == [""] * 8
    workers = {trial["worker"] for trial in found["trials"]}
    assert f"-{killed}" in workers
    assert len(workers) == 3, "the one that was killed has a successor"
    assert found["chosen"] is not None
    assert (tmp_path / "best.mcut").is_file()
