"""What is said on stderr while work is being done."""

from __future__ import annotations

import io
import time

import pytest

from modelcut.cli import progress
from modelcut.cli.progress import Display


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def wait_for(text, stream, seconds=10):
    end = time.monotonic() + seconds
    while text not in stream.getvalue():
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.02)


def test_a_log_gets_a_line_at_intervals_with_what_is_being_done():
    stream = io.StringIO()
    display = Display(stream, terminal=False, interval=0.05)
    display.say("starting the network")
    wait_for("starting the network", stream)
    display.say("layer [red]\x1b[2J, 3 of 10")
    wait_for("3 of 10", stream)
    display.close()
    lines = stream.getvalue().splitlines()
    assert all(line.startswith("modelcut: ") for line in lines)
    assert "\x1b" not in stream.getvalue()
    time.sleep(0.15)
    assert stream.getvalue().splitlines() == lines  # closed is closed


def test_short_work_says_nothing():
    stream = io.StringIO()
    for display in (Display(stream, terminal=False), Display(stream, terminal=True)):
        display.say("planning")
        display.say("")
    assert stream.getvalue() == ""


def test_a_terminal_shows_the_activity_and_is_left_clean():
    stream = Terminal()
    display = Display(stream, terminal=True)
    display.say("gradients, 50 of 200 rows")
    wait_for("25 %", stream)
    display.say("training: epoch 2, 80%, loss 0.1")
    wait_for("80 %", stream)
    display.say("[bold]x[/bold]")
    wait_for("[bold]x[/bold]", stream)  # a name is no markup
    display.say("")
    assert "\x1b[?25l" not in stream.getvalue()  # the cursor was never hidden
    assert stream.getvalue().endswith("\x1b[2K")  # and the line is empty again
    display.say("again")
    wait_for("again", stream)
    display.close()


@pytest.mark.parametrize(
    ("line", "counted"),
    [
        ("writing, 3 of 10 tensors", (3, 10)),
        ("evaluating, 1,000 of 20,000 samples", (1000, 20000)),
        ("training: epoch 3, 25%, loss 0.1", (25, 100)),
        ("evaluating, 200 samples", (0, 0)),
        ("9 of 3", (3, 3)),
        ("0 of 0", (0, 0)),
    ],
)
def test_numbers_are_found(line, counted):
    assert progress._counted(line) == counted


def test_the_display_of_a_process_is_closed_while_it_draws(monkeypatch):
    """Rich puts a stream of its own into the place of stderr meanwhile."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "_shown", None)
    progress.show()("writing, 1 of 2 tensors")
    wait_for("50 %", stream)
    progress.show()("")
    assert progress._shown._bar is None
    assert stream.getvalue().endswith("\x1b[2K")
    before = stream.getvalue()
    time.sleep(0.3)
    assert stream.getvalue() == before
