"""Where results go when something ends the work: disks, limits, signals, crashes of libraries."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from toys import MODELS

from modelcut.job.outputs import Outputs, _here

MODEL = MODELS / "keras3_sequential.h5"
CALL = [sys.executable, "-m", "modelcut"]


def run(*arguments, **options):
    call = [*CALL, *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=120, **options)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("source", ["keras3_sequential.h5", "keras3_cnn.keras"])
def test_a_file_that_may_not_grow(source, tmp_path):
    """HDF5 crashes on a write that fails: none may, wherever the limit is."""
    output = tmp_path / f"o{(MODELS / source).suffix}"
    for limit in (0, 700, 3000, 7000, 11_000):

        def preexec(limit=limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        done = run(
            "prune", MODELS / source, "--sparsity", "0.5", "-o", output, "-q", preexec_fn=preexec
        )
        assert done.returncode == 4, (limit, done)
        assert done.stderr == f"modelcut: {output}: File too large\n"
        assert files(tmp_path) == []


def test_files_made_of_another_format_are_the_same_each_time(tmp_path, modelcut):
    for name in ("a.keras", "b.keras"):
        said = modelcut("prune", MODEL, "--sparsity", "0.5", "-o", tmp_path / name, "-q")
        assert said.code == 0, said
        time.sleep(1.1)  # a time stamp counts seconds
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()


def test_two_outputs_of_one_name_have_two_reports(tmp_path, modelcut):
    for suffix in ("h5", "mcut", "h5", "mcut"):
        place = tmp_path / f"x.{suffix}"
        assert modelcut("prune", MODEL, "--sparsity", "0.5", "-o", place, "-q").code == 0
    assert [name for name in files(tmp_path) if name.endswith(".json")] == [
        "x.mcut.report.json",
        "x.report.json",
    ]
    for name, about in (("x.mcut.report.json", "x.mcut"), ("x.report.json", "x.h5")):
        found = json.loads((tmp_path / name).read_text())["output"]["path"]
        assert found == str(tmp_path / about)


def test_what_a_killed_process_left_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = _here()
    mine = f".o.h5.{os.getpid()}-{here}00000000.part"
    stale = f".o.h5.{ended.pid}-{here}00000000.part"
    kept = [
        mine,
        f".o.h5.{ended.pid}-{'0' * 6}00000000.part",  # of another machine
        f"{stale}.old",  # the user's own folder, set aside
        f".p.h5.{ended.pid}-{here}00000000.part",  # of another output
    ]
    for name in (*kept, stale, f"{stale}.weights"):
        (tmp_path / name).write_text("")
    with Outputs([]) as outputs:
        outputs.add(tmp_path / "o.h5")
    assert files(tmp_path) == sorted(kept)


@pytest.mark.parametrize("channel", ["json", "summary"])
def test_a_report_that_cannot_be_shown(channel, tmp_path):
    more = ["--json"] if channel == "json" else ["--summary", "/dev/full", "-q"]
    line = [*CALL, "prune", str(MODEL), "--sparsity", "0.5", "-o", str(tmp_path / "o.h5"), *more]
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 4
    where = "stdout" if channel == "json" else "/dev/full"
    assert done.stderr == (
        f"modelcut: {where}: the report cannot be written: No space left on device "
        f"(written all the same: {tmp_path}/o.h5)\n"
    )
    assert (tmp_path / "o.h5").exists()


def test_a_report_that_cannot_be_written(tmp_path, modelcut, monkeypatch):
    from modelcut.job import pipeline

    def render(report, kind):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, "render", render)
    said = modelcut("prune", MODEL, "--sparsity", "0.5", "-o", tmp_path / "o.h5", "-q")
    assert said.code == 4
    assert "o.report.json: cannot be written: No space left" in said.err
    assert "written all the same" in said.err
    assert files(tmp_path) == ["o.h5"]


def test_a_limit_on_memory_is_no_failed_gate(tmp_path):
    def preexec():
        resource.setrlimit(resource.RLIMIT_AS, (120_000 << 10, 120_000 << 10))

    done = run(
        "prune", MODEL, "--sparsity", "0.5", "-o", tmp_path / "o.h5", "-q", preexec_fn=preexec
    )
    assert done.returncode == 4, done
    assert "memory" in done.stderr.splitlines()[-1]


CRASH = """
import os, signal, sys
from modelcut.cli import main as cli
from modelcut.job import pipeline
def crash(*_): os.kill(os.getpid(), signal.{name})
pipeline.fold = crash
cli.main()
"""


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("SIGABRT", 2, "crashed (SIGABRT) in a library"),
        ("SIGSEGV", 2, "crashed (SIGSEGV) in a library"),
        ("SIGKILL", 4, "was killed (SIGKILL), most likely for want of memory"),
        ("SIGXCPU", 4, "ran out of CPU time"),
    ],
)
def test_whatever_ends_the_process_is_told(name, code, words, tmp_path):
    words_given = ["prune", str(MODEL), "--sparsity", "0.5", "-o", str(tmp_path / "o.h5")]
    call = [sys.executable, "-c", CRASH.format(name=name), *words_given]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done
    assert done.stderr.startswith(f"modelcut: {words}")
    assert done.stderr.count("\n") == 1
    assert files(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_modelcut_starts(number, code, tmp_path):
    """Once Python itself has started."""
    program = shutil.which("modelcut", path=os.path.dirname(sys.executable))
    start = (
        "import os, signal, sys\n"
        f"sys.argv = [{program!r}, 'prune', {str(MODEL)!r}, '--sparsity', '0.5', '-o', 'o.h5']\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == sys.argv_at: os.kill(os.getpid(), signal.{number.name})\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv_at = AT\n"
        "from modelcut.cli.main import main\n"
        "main()\n"
    )
    for at in ("modelcut.steps", "typer", "numpy"):
        call = [sys.executable, "-c", start.replace("AT", repr(at))]
        done = subprocess.run(call, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert done.returncode == code, (at, done)
        assert done.stderr.count("\n") == 1, (at, done)
        assert "nothing was written" in done.stderr
    assert files(tmp_path) == []
