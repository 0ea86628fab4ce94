"""Writes that fail, processes that are killed: the old file or a complete new one, no leftovers."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from damage import in_child, values_in
from test_saved_model import saved_model
from toys import MODELS

import modelcut
from modelcut.errors import ModelcutError

OUTPUTS = ["o.h5", "o.keras", "o.mcut", "o"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return {"o": saved_model("keras3", folder), "": MODELS / "keras3_cnn.keras"}


def _files(folder):
    return sorted(p.name for p in folder.iterdir() if p.name != "sources")


def _faulty(source, place, limit):
    """A job whose every file may have `limit` bytes; "" for done, else what it said."""

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            modelcut.prune(source, place, sparsity=0.5, report=True)
        except (ModelcutError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    return in_child(work)


def _try(source, folder, name, limit, before):
    """One fault: what is there afterwards is the old file, or a whole new one."""
    place = folder / name
    said = _faulty(source, place, limit)
    if not said:
        assert values_in(place)
        return True
    left = _files(folder)
    reports = {f"{place.stem}.report.{kind}" for kind in ("json", "md", "html")}
    if "written all the same" not in said:
        assert set(left) <= {name} | (reports if before else set()), (limit, left, said)
        if before:
            assert values_in(place) == before
        else:
            assert not place.exists(), (limit, said)
    else:
        assert values_in(place)
    return False


def _limits(source, folder, name):
    place = folder / name
    modelcut.prune(source, place, sparsity=0.5, report=True)
    sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
    values = values_in(place)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return max(sizes), values


@pytest.mark.parametrize("name", OUTPUTS)
def test_no_file_may_grow_beyond_some_bytes(name, tmp_path, sources):
    source = sources["o" if name == "o" else ""]
    largest, _ = _limits(source, tmp_path, name)
    for limit in [0, 1, 600, *np.linspace(1, largest - 1, 4).astype(int).tolist()]:
        _try(source, tmp_path, name, limit, None)
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert _try(source, tmp_path, name, 1 << 20, None)
    before = values_in(tmp_path / name)
    _try(source, tmp_path, name, largest // 2, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
def test_every_byte_that_matters(name, tmp_path, sources):
    source = sources["o" if name == "o" else ""]
    largest, _ = _limits(source, tmp_path, name)
    done = 0
    most = largest + (1 << 18)  # HDF5 files are longer while they are written
    for limit in [*range(0, largest + 400, max(1, largest // 200)), *range(largest, most, 8192)]:
        done += _try(source, tmp_path, name, limit, None)
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert done


@pytest.mark.parametrize("call", ["fsync", "replace", "rename"])
def test_a_call_of_the_system_that_fails(call, tmp_path, monkeypatch, sources):
    real, count = getattr(os, call), [0]
    monkeypatch.setattr(os, call, lambda *a, **k: _fails(real, count, a, k))
    for number in range(3):
        count[0] = number
        for name in ("o.h5", "o"):
            source = sources["o" if name == "o" else ""]
            try:
                modelcut.prune(source, tmp_path / name, sparsity=0.5)
            except (ModelcutError, OSError):
                pass
            else:
                assert values_in(tmp_path / name)
            assert not [n for n in _files(tmp_path) if n.endswith(".part")], _files(tmp_path)


def _fails(real, count, arguments, options):
    count[0] -= 1
    if count[0] == -1:
        raise OSError(5, "Input/output error", str(arguments[0]))
    return real(*arguments, **options)


def _killed(tmp_path, moments):
    """Runs that are killed for good, parent and child, and one that is not."""
    place, temporary = tmp_path / "o.h5", tmp_path / "tmp"
    temporary.mkdir()
    source = tmp_path / "m.keras"
    shutil.copyfile(MODELS / "keras3_cnn.keras", source)
    environment = {**os.environ, "TMPDIR": str(temporary)}
    line = [sys.executable, "-m", "modelcut", "prune", str(source), "--sparsity", "0.5"]
    line += ["-o", str(place), "-q", "--no-report"]
    for moment in moments:
        child = subprocess.Popen(line, env=environment)
        time.sleep(moment)
        child.kill()
        child.wait()
        if place.exists():
            assert values_in(place)
    assert subprocess.run(line, env=environment, timeout=120).returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.keras", "o.h5", "tmp"]
    assert list(temporary.iterdir()) == []


def test_killed_now_and_then(tmp_path):
    _killed(tmp_path, [0.4, 0.9])


@pytest.mark.slow
def test_killed_at_fifty_moments(tmp_path):
    _killed(tmp_path, np.random.default_rng(0).uniform(0.05, 2.0, 50).tolist())


def _jobs(count, folder):
    """Jobs through the Python API: descriptors, memory and temporary files before and after."""
    # This process' own: whatever else runs on the machine makes temporary files, too.
    temporary = folder / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)

    def state():
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * resource.getpagesize()
        return len(os.listdir("/proc/self/fd")), resident, len(os.listdir(temporary))

    source = MODELS / "keras3_cnn.keras"
    for number in range(max(6, count // 10)):  # what is loaded once is loaded now
        modelcut.prune(source, folder / f"w{('.h5', '.keras', '.mcut')[number % 3]}", sparsity=0.5)
    before = state()
    for number in range(count):
        out = folder / f"o{('.h5', '.keras', '.mcut')[number % 3]}"
        modelcut.prune(source, out, sparsity=0.5, report=True)
        modelcut.inspect(out)
        with pytest.raises(ModelcutError):
            modelcut.inspect(folder)
    return before, state()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("count", [9, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_jobs_in_one_process(count, tmp_path):
    before, after = in_child(lambda: _jobs(count, tmp_path))
    assert after[0] <= before[0] + 1
    assert after[2] <= before[2]
    assert after[1] - before[1] < (20 << 20), (before, after)
