"""A search on local worker processes, one of which is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import modelcut as package
from modelcut.tuner import workers

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
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=err)
        killed = 0
        while process.poll() is None:
            time.sleep(0.2)
            records = done.read_text().splitlines() if done.is_file() else []
            if records and not killed:
                killed = -int(json.loads(records[-1])["worker"])
                os.kill(killed, signal.SIGKILL)
    said = (tmp_path / "err").read_text()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert killed
    found = json.loads((tmp_path / "best.search.json").read_text())
    assert [trial["error"] for trial in found["trials"]] == [""] * 8
    workers = {trial["worker"] for trial in found["trials"]}
    assert f"-{killed}" in workers
    assert len(workers) == 3, "the one that was killed has a successor"
    assert found["chosen"] is not None
    assert (tmp_path / "best.mcut").is_file()


@pytest.mark.slow
def test_local_workers_share_the_processors():
    with contextlib.ExitStack() as opened:
        client, name = workers._client(opened, 2, "", lambda _: None)
        found = client.run(lambda: dict(os.environ))
    assert name == "2 local workers"
    assert len(found) == 2
    for environment in found.values():
        each = str(max(1, os.cpu_count() // 2))
        assert environment["TF_NUM_INTRAOP_THREADS"] == each
        # With it glibc maps the tensors of each step anew: eight times the page faults.
        assert "MALLOC_TRIM_THRESHOLD_" not in environment


def test_a_setting_of_the_user_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("TF_NUM_INTEROP_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    found = workers._shared(4)
    assert (found["OMP_NUM_THREADS"], found["TF_NUM_INTEROP_THREADS"]) == ("7", "2")
    assert workers._shared(99)["TF_NUM_INTEROP_THREADS"] == "1"


@pytest.mark.slow
def test_a_cluster_that_is_there(modelcut, tmp_path):
    """A scheduler and two workers, started by Dask's own commands."""
    (tmp_path / "space.yaml").write_text(SPACE)
    dask = (sys.executable, "-m", "dask")
    place = f"--scheduler-file={tmp_path / 'place.json'}"
    # The scheduler's folder is another one than that of the search.
    others = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with contextlib.ExitStack() as opened:
        for command in (
            [*dask, "scheduler", place, "--port=0", "--host=127.0.0.1", "--no-dashboard"],
            [*dask, "worker", place, "--nworkers=2", "--nthreads=1", "--no-dashboard"],
        ):
            process = opened.enter_context(subprocess.Popen(command, **others))
            opened.callback(process.terminate)
        end = time.monotonic() + 60
        while not (tmp_path / "place.json").is_file() and time.monotonic() < end:
            time.sleep(0.1)
        address = json.loads((tmp_path / "place.json").read_text())["address"]
        said = modelcut(
            *("search", DEMO / "digits.h5", "-r", tmp_path / "space.yaml", "--scale", "1/16"),
            *("--validate", DEMO / "digits_test.csv", "--max-accuracy-drop", "0.02"),
            *("-o", tmp_path / "best.mcut", "--trials", "4", "--scheduler", address),
        )
    assert said.code == 0, said
    found = json.loads((tmp_path / "best.search.json").read_text())
    assert [trial["error"] for trial in found["trials"]] == [""] * 4
    assert all(trial["worker"] for trial in found["trials"])
    assert not list(tmp_path.glob("*.search"))
