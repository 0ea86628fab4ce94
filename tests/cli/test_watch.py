"""The process that is watched: what it may take, and that it ends when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from modelcut.cli import watch
from modelcut.errors import UsageError
from modelcut.job import limits


@pytest.fixture
def watched(monkeypatch):
    """Runs some Python that tells by the pipe `tell`, and waits for it."""
    monkeypatch.setattr(watch, "_LOOK", 0.02)
    monkeypatch.setattr(watch, "_GRACE", 0.3)
    monkeypatch.setattr(watch, "_PATIENCE", 0.5)
    pids = []

    def run(code, sent=()):
        told, tell = os.pipe()
        head = f"import sys, time, signal; from modelcut.job.watched import by, tell; by({tell})\n"
        child = subprocess.Popen(
            [sys.executable, "-c", head + textwrap.dedent(code)],
            pass_fds=[tell],
            start_new_session=True,
        )
        pids.append(child.pid)
        os.close(tell)
        one = watch.Watch(child.pid, told)
        status, passed = one.wait(list(sent))
        os.close(told)
        child.returncode = 0  # it is waited for already
        return one, os.waitstatus_to_exitcode(status), passed

    yield run
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_that_ends_tells_its_code(watched):
    one, code, passed = watched("tell(memory=1 << 40); tell(code=3)")
    assert (one.code, code, passed) == (3, 0, None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_beyond_the_limit_is_the_end(watched):
    _, code, passed = watched("tell(memory=50 << 20); held = bytearray(100 << 20); time.sleep(30)")
    assert code == -signal.SIGKILL
    assert passed[1] == 4
    assert "--max-memory" in passed[0]


def test_time_beyond_the_limit_is_the_end(watched):
    _, code, passed = watched("tell(seconds=0.4, doing='loading')\nwhile True: pass")
    assert code == -signal.SIGKILL
    assert passed[1] == 2
    assert "loading came to no end" in passed[0]


def test_a_signal_that_is_not_heeded_is_the_end(watched):
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(30)"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        _, ended, passed = watched(deaf, sent=[number])
        assert ended == -signal.SIGKILL
        assert passed[1] == code


def test_what_it_has_started_ends_with_it(watched, tmp_path):
    place = tmp_path / "pid"
    watched(
        f"""
        import subprocess
        inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open({str(place)!r}, "w").write(str(inner.pid))
        tell(seconds=0.2, doing="it")
        time.sleep(30)
        """
    )
    inner = int(place.read_text())
    state = "Z"
    for _ in range(100):
        try:
            with open(f"/proc/{inner}/stat") as file:
                state = file.read().rpartition(")")[2].split()[0]
        except OSError:
            state = "Z"  # gone for good
        if state == "Z":
            break
        time.sleep(0.05)
    assert state == "Z"


def test_sizes_of_memory():
    assert limits.bytes_of("8GB") == limits.bytes_of("8 GiB") == limits.bytes_of("8g") == 8 << 30
    assert limits.bytes_of("1e9") == 10**9
    for text in ("", "GB", "eight", "-1GB", "nan", "1", "1e30GB"):
        with pytest.raises(UsageError, match="--max-memory"):
            limits.bytes_of(text)


def test_the_limit_is_gone_afterwards():
    before = limits.available()
    with limits.at_most("64MB"):
        assert limits.available() == 64 << 20
    assert limits.available() == before
