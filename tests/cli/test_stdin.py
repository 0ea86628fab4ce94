"""Samples by standard input: what `-` says is what the file says, and nothing of it stays."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import modelcut as package
from modelcut.data.stdin import Stdin, path_from
from modelcut.safety import check_path

DEMO = Path(package.__file__).parent / "demo"
MODEL, CSV = DEMO / "digits.h5", DEMO / "digits_test.csv"


@pytest.fixture
def piped(modelcut, tmp_path, monkeypatch):
    """Calls the command line with bytes on standard input; nothing may be left of them."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))

    def call(data, *arguments):
        (tmp_path / "in").write_bytes(data)
        kept = os.dup(0)
        with (tmp_path / "in").open("rb") as file:
            os.dup2(file.fileno(), 0)
        try:
            return modelcut(*arguments)
        finally:
            os.dup2(kept, 0)
            os.close(kept)
            assert list(place.rglob("stdin*")) == []

    return call


def test_the_same_as_of_the_file(piped, modelcut, tmp_path):
    data = gzip.compress(CSV.read_bytes())
    said = piped(data, "eval", MODEL, "--test", "-", "--scale", "1/16", "--json")
    assert said.code == 0, said
    found = json.loads(said.out)["evaluation"]
    assert found["test"] == "-"
    assert found["after"]["metrics"]["accuracy"] == pytest.approx(0.9815, abs=1e-4)


def test_what_is_wrong_is_said_of_it(piped):
    said = piped(b"", "eval", MODEL, "--test", "-")
    assert (said.code, said.err) == (2, "modelcut: -: is empty\n")
    lines = CSV.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"0", b"zero", 1)
    said = piped(b"".join(lines), "eval", MODEL, "--test", "-")
    assert said.code == 2
    assert said.err.startswith("modelcut: -:3: column ")


def test_it_is_read_once(piped):
    said = piped(b"x", "finetune", MODEL, "--train", "-", "--test", "-", "-o", "never.h5")
    assert said.code == 2
    assert "--test and --train: standard input can be read once" in said.err


def test_a_step_depends_on_what_came_in_not_on_where_it_was_kept(piped, tmp_path):
    """The calibration samples are read several times, and the report does not name the place."""
    output, rule = tmp_path / "o.h5", tmp_path / "o.d"
    line = ["correct", MODEL, "--scale", "1/16", "--calibrate", "-", "-o", output]
    said = piped(CSV.read_bytes(), *line, "--depfile", rule, "-q")
    assert said.code == 0, said
    report = json.loads((tmp_path / "o.report.json").read_text())
    assert [(file["role"], file["path"]) for file in report["data"]] == [("calibrate", "-")]
    assert "stdin" not in rule.read_text()
    again = piped(CSV.read_bytes(), *line, "--if-changed")
    assert again.out == f"{output}: up to date\n", again


def test_a_signal_leaves_nothing(tmp_path):
    place = tmp_path / "temporary"
    place.mkdir()
    line = [sys.executable, "-m", "modelcut", "eval", str(MODEL), "--test", "-"]
    process = subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(place)},
    )
    process.stdin.write(CSV.read_bytes()[:-1] + b"x" * (4 << 20))  # no end comes
    process.stdin.flush()
    end = time.monotonic() + 60
    while not list(place.rglob("stdin.csv")):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert process.stderr.read().endswith(b"terminated; nothing was written\n")
    process.stdin.close()
    process.stderr.close()
    assert list(place.iterdir()) == []


def test_the_path_goes_through_all_hands(tmp_path):
    (tmp_path / "stdin.csv").write_text("x\n1\n")
    path = path_from(pickle.loads(pickle.dumps(Stdin(tmp_path / "stdin.csv"))))
    assert (f"{path}", path.suffix, path.parent) == ("-", ".csv", Path())
    assert path.read_text() == "x\n1\n"
    assert os.fspath(path) == str(tmp_path / "stdin.csv")
    check_path(path)
