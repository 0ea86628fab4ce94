"""Where results go: nothing appears at its place before all of it is there.

Each file is written under a hidden name beside its place, flushed, and renamed at the end. What
is not published is removed, whatever ended the work.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from modelcut.errors import ResourceError, UsageError


class Outputs:
    """The files that one job writes, published together or not at all."""

    def __init__(
        self,
        inputs: Sequence[Path],
        *,
        force: bool = False,
        in_place: bool = False,
        ours: Callable[[Path], bool] = lambda _: False,
    ) -> None:
        """Keeps the rules for what may be replaced.

        Args:
            inputs: files that must survive, links to them too.
            force: any existing file may be replaced.
            in_place: the first input may be replaced.
            ours: tells whether modelcut wrote an existing file, which may then be replaced.
        """
        self._inputs = list(inputs)
        self._force = force
        self._in_place = in_place
        self._ours = ours
        self._files: list[tuple[Path, Path]] = []

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *_: object) -> None:
        for scratch, _place in self._files:
            with contextlib.suppress(OSError):
                if scratch.is_dir():
                    shutil.rmtree(scratch, ignore_errors=True)
                else:
                    scratch.unlink()
        self._files.clear()

    def add(self, place: Path) -> Path:
        """Checks that `place` may be written, and gives the hidden name to write to.

        Raises:
            UsageError: the place is an input, is taken, or has no folder.
            ResourceError: its folder cannot be written to.
        """
        self._check(place)
        name = f".{place.name[:100]}.{os.getpid()}-{secrets.token_hex(4)}.part"
        scratch = place.parent / name
        try:
            os.close(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            raise ResourceError(f"{place}: cannot be written: {error.strerror}") from None
        self._files.append((scratch, place))
        return scratch

    def publish(self) -> None:
        """Flushes every file to the disk and renames it to its place."""
        for scratch, _ in self._files:
            if scratch.is_file():
                with scratch.open("rb") as file:
                    os.fsync(file.fileno())
        while self._files:
            scratch, place = self._files[0]
            os.replace(scratch, place)
            self._files.pop(0)

    def _check(self, place: Path) -> None:
        if "://" in str(place):
            raise UsageError(f"{place}: only local files are written")
        if not place.parent.is_dir():
            raise UsageError(f"{place}: its folder does not exist", f"mkdir -p {place.parent}")
        if place.is_dir():
            raise UsageError(f"{place}: is a folder", "name a file")
        if not place.exists():
            return
        for index, source in enumerate(self._inputs):
            if source.exists() and os.path.samefile(source, place):
                if index == 0 and self._in_place and not place.is_symlink():
                    return
                hint = "name another file, or --in-place" if index == 0 else "name another file"
                raise UsageError(f"{place}: is the input {source}", hint)
        if not (self._force or self._ours(place)):
            raise UsageError(
                f"{place}: exists, and modelcut did not write it", "name another file, or --force"
            )
