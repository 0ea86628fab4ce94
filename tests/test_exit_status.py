"""One case for each exit code, as a shell sees it: a whole process, its code and its one line."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time

import h5py
import pytest
from toys import MODELS

from modelcut.errors import ExitCode

MODEL = MODELS / "keras3_sequential.h5"


def call(*arguments, **more):
    """Runs the command line in a process of its own."""
    command = [sys.executable, "-m", "modelcut", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)


def with_code(target):
    """A model with a layer that carries code."""
    target.write_bytes(MODEL.read_bytes())
    with h5py.File(target, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        layers = config["config"]["layers"]
        layers.append({"class_name": "Lambda", "config": {"name": "f", "function": ["4wEAAAA="]}})
        file.attrs["model_config"] = json.dumps(config)


def done(tmp_path):
    return call("prune", MODEL, "--sparsity", "0.5", "-o", tmp_path / "o.h5")


def gate_failed(tmp_path):
    gates = ("--max-bytes", "10")
    return call("prune", MODEL, "--sparsity", "0.5", "-o", tmp_path / "o.h5", *gates)


def bad_usage(tmp_path):
    return call("prune", tmp_path / "absent.h5", "--sparsity", "0.5", "-o", tmp_path / "o.h5")


def unsafe(tmp_path):
    with_code(tmp_path / "lambda.h5")
    (tmp_path / "t.csv").write_text("a,b,c,d,label\n1,2,3,4,0\n")
    return call("eval", tmp_path / "lambda.h5", "--test", tmp_path / "t.csv")


def no_space(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    out = tmp_path / "o.mcut"
    return call("pack", MODEL, "-o", out, "--no-report", preexec_fn=limit)


def lost_peer(tmp_path):
    script = (
        "import sys; from modelcut.cli import main; from modelcut.errors import PeerError\n"
        "from modelcut.job import pipeline\n"
        "def lost(*_): raise PeerError('worker 1 was lost')\n"
        "pipeline.check = lost\n"
        "main.main(sys.argv[1:])\n"
    )
    arguments = ["prune", str(MODEL), "--sparsity", "0.5", "-o", str(tmp_path / "o.h5")]
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120
    )


def internal_error(tmp_path):
    script = (
        "import sys; from modelcut.cli import main; from modelcut.job import pipeline\n"
        "def broken(*_): raise RuntimeError('unforeseen')\n"
        "pipeline.check = broken\n"
        "main.main(sys.argv[1:])\n"
    )
    arguments = ["prune", str(MODEL), "--sparsity", "0.5", "-o", str(tmp_path / "o.h5")]
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120
    )


def stopped(tmp_path, number):
    """Ends a run by a signal while it is at work."""
    script = (
        "import sys, time; from modelcut.cli import main; from modelcut.job import pipeline\n"
        "def wait(*_): print('ready', flush=True); time.sleep(60)\n"
        "pipeline.check = wait\n"
        "main.main(sys.argv[1:])\n"
    )
    arguments = ["prune", str(MODEL), "--sparsity", "0.5", "-o", str(tmp_path / "o.h5")]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


CASES = {
    ExitCode.OK: done,
    ExitCode.GATE: gate_failed,
    ExitCode.USAGE: bad_usage,
    ExitCode.UNSAFE: unsafe,
    ExitCode.RESOURCES: no_space,
    ExitCode.PEER: lost_peer,
    ExitCode.MISTAKE: internal_error,
    ExitCode.INTERRUPTED: lambda folder: stopped(folder, signal.SIGINT),
    ExitCode.TERMINATED: lambda folder: stopped(folder, signal.SIGTERM),
}

PUBLISHES = (ExitCode.OK, ExitCode.GATE)


def test_each_code_has_a_case():
    assert set(CASES) == set(ExitCode)


@pytest.mark.parametrize("code", CASES, ids=lambda code: code.name)
def test_exit_status(code, tmp_path):
    ended = CASES[code](tmp_path)
    assert ended.returncode == code, ended
    assert "Traceback" not in ended.stderr
    if code in PUBLISHES:
        name = "o.failed.h5" if code == ExitCode.GATE else "o.h5"
        assert (tmp_path / name).exists()
    else:
        assert ended.stderr.startswith("modelcut: "), ended
        assert not [path.name for path in tmp_path.iterdir() if "o." in path.name]
