"""What is being done, on stderr: a moving line on a terminal, a line every ten seconds in a log.

Work that takes less than half a second shows nothing, and loads nothing for it.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from modelcut.safety import printable

_FIRST = 0.4
"""Seconds before a terminal shows anything."""
_INTERVAL = 10.0
"""Seconds between two lines of a log."""
_COUNTED = re.compile(r"(.*?),? *\b([\d,]+) of ([\d,]+)\b.*", re.DOTALL)
_PERCENT = re.compile(r"(.*?),? *\b(\d+) ?%.*", re.DOTALL)


class Display:
    """The activities of a job, one after the other."""

    def __init__(self, stream: TextIO, *, terminal: bool, interval: float = _INTERVAL) -> None:
        """Shows nothing yet.

        Args:
            stream: where it is shown.
            terminal: whether that is one.
            interval: seconds between two lines where it is none.
        """
        self._stream = stream
        self._terminal = terminal
        self._interval = interval
        self._line = ""
        self._since = self._began = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._bar: Any = None
        self._task: Any = None

    def say(self, line: str) -> None:
        """Takes the current activity; "" ends the display."""
        if not line:
            self.close()
            return
        now = time.monotonic()
        with self._lock:
            if _what(line) != _what(self._line):
                self._since = now
            self._line = line
            if self._bar is not None:
                self._draw()
            if self._thread is None:
                self._began = now
                self._stop.clear()
                self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Clears the line: what comes next begins on one of its own."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2)
        with self._lock:
            bar, self._bar, self._line = self._bar, None, ""
        if bar is not None:
            bar.stop()

    def _run(self) -> None:
        if self._terminal:
            if not self._stop.wait(_FIRST):
                self._open()
            return
        while not self._stop.wait(self._interval):
            with self._lock:
                line, took = self._line, time.monotonic() - self._began
            try:
                print(f"modelcut: {took:.0f} s: {printable(line, 300)}", file=self._stream)
                self._stream.flush()
            except (OSError, ValueError):
                return

    def _open(self) -> None:
        """Begins to draw; Rich redraws by itself from then on."""
        from rich import progress
        from rich.console import Console
        from rich.table import Column

        console = Console(file=self._stream)
        # Whatever ends this process, the terminal has its cursor.
        console.show_cursor = lambda show=True: False  # type: ignore[method-assign]
        name = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        bar = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", markup=False, table_column=name),
            progress.TextColumn("{task.fields[bar]}", markup=False),
            progress.TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=8,
            expand=False,
        )
        with self._lock:
            if self._stop.is_set():
                return
            self._bar = bar
            self._task = bar.add_task("", total=None, bar="")
            self._draw()
            bar.start()

    def _draw(self) -> None:
        """Shows the current activity; the lock is held."""
        done, total = _counted(self._line)
        shown = _bar_of(done, total) if total else ""
        if _what(self._line) != self._bar.tasks[0].fields.get("what"):
            self._bar.reset(self._task, total=None, bar=shown, what=_what(self._line))
        self._bar.update(self._task, description=printable(self._line, 300), bar=shown)


def _counted(line: str) -> tuple[int, int]:
    """How much of an activity is done: "gradients, 20 of 200 rows" -> 20, 200."""
    if found := _COUNTED.fullmatch(line):
        done, total = (int(text.replace(",", "") or 0) for text in found.group(2, 3))
        return min(done, total), total
    if found := _PERCENT.fullmatch(line):
        return min(int(found[2]), 100), 100
    return 0, 0


def _what(line: str) -> str:
    """The activity without its numbers."""
    found = _COUNTED.fullmatch(line) or _PERCENT.fullmatch(line)
    return re.sub(r"[\d.,:]+", "", found[1] if found else line)


def _bar_of(done: int, total: int, width: int = 16) -> str:
    full = width * done // total
    return "━" * full + "╌" * (width - full) + f" {100 * done // total:3d} %"


_shown: Display | None = None


def show() -> Callable[[str], None]:
    """Where a job tells what it is doing; one display for the process."""
    global _shown
    # While it draws, sys.stderr is Rich's, which prints above the line.
    if _shown is None or (_shown._thread is None and _shown._stream is not sys.stderr):
        _shown = Display(sys.stderr, terminal=sys.stderr.isatty())
    return _shown.say


def close() -> None:
    """Ends the display, if there is one."""
    if _shown is not None:
        _shown.close()
