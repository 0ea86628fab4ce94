"""What an interrupted search needs to go on: a folder with its trials so far.

`search.json` says what the search is of; `trials.jsonl` has a line for each trial, written when it
is done.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from modelcut.errors import InputError, UsageError
from modelcut.safety import small_text
from modelcut.tuner.record import Trial

_ABOUT = "search.json"
_TRIALS = "trials.jsonl"
STATES = "states"
"""Folder of the states of finished trainings."""
SCHEMA = "modelcut-search-journal/2"


class Journal:
    """The folder of one search, which no other one may use meanwhile: a context manager.

    Attributes:
        folder: path of the folder; scratch files of the search are in it, too.
    """

    def __init__(self, folder: Path, of: Mapping[str, str]) -> None:
        """Makes the folder, or takes up what is there.

        Args:
            folder: path of the folder.
            of: what must be the same for a search to be the same, each by its name for messages.

        Raises:
            UsageError: the folder holds other things.
            InputError: it is the journal of another search, or is damaged.
        """
        self.folder = folder
        about = folder / _ABOUT
        _no_link(folder)
        text = json.dumps({"schema": SCHEMA, "of": dict(of)}, indent=1)
        if about.is_file():
            _check(about, of)
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder}: is no journal of modelcut", "remove it, or name another")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / f".{_ABOUT}.part"
            draft.write_text(text, encoding="utf-8")
            os.replace(draft, about)
        self._held = _claimed(about)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder.exists() and not self._resumes():
            self.remove()
        self._held.close()

    def _resumes(self) -> bool:
        """Whether anything is kept that took time: a trial, or the state of a training."""
        kept = (self.folder / _TRIALS, *self.folder.joinpath(STATES).glob("*.npz"))
        return any(os.path.lexists(path) for path in kept)

    def trials(self) -> list[Trial]:
        """The trials that are done, in the order in which they ended.

        Raises:
            InputError: a line is damaged. Of a search that was killed the last one may be cut.
        """
        path = self.folder / _TRIALS
        if not os.path.lexists(path):
            return []
        if path.is_symlink() or not path.is_file():
            raise _damaged(path, self.folder)
        lines = path.read_bytes().split(b"\n")
        if lines.pop():  # what follows must not stand behind a line that was cut
            os.truncate(path, sum(len(line) + 1 for line in lines))
        try:
            return [Trial.of(json.loads(line)) for line in lines]
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise _damaged(path, self.folder) from None

    def add(self, trial: Trial) -> None:
        """Keeps a trial."""
        with (self.folder / _TRIALS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(trial.to_dict()) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Removes the folder: the search is over."""
        shutil.rmtree(self.folder, ignore_errors=True)


def discard(folder: Path) -> int:
    """Removes what an interrupted search left, its states of trainings too.

    Returns:
        The bytes that are free again; 0 if there was nothing.

    Raises:
        UsageError: the folder holds other things.
    """
    _no_link(folder)
    if not folder.exists():
        return 0
    if not folder.joinpath(_ABOUT).is_file():
        raise UsageError(f"{folder}: is no journal of modelcut", "remove it by hand if need be")
    with _claimed(folder / _ABOUT):
        return _emptied(folder)


def _emptied(folder: Path) -> int:
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    shutil.rmtree(folder)
    return size


def _claimed(about: Path) -> IO[bytes]:
    """Takes the lock of a search, which ends with its process, or when the file is closed.

    Raises:
        UsageError: another search has it.
    """
    file = about.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(
            f"{about.parent}: another search for this output is running",
            "wait until it ends, or name another output",
        ) from None
    except OSError:  # a file system without locks
        pass
    return file


def _no_link(folder: Path) -> None:
    """Refuses what is removed at the end and would be another folder."""
    if folder.is_symlink():
        raise UsageError(f"{folder}: is a link", "remove it, or name another output")


def _damaged(path: Path, folder: Path) -> InputError:
    return InputError(f"{path}: is damaged", f"--restart begins anew, or remove {folder}")


def _check(about: Path, of: Mapping[str, str]) -> None:
    folder = about.parent
    try:
        found = json.loads(small_text(about))
        schema, old = found["schema"], dict(found["of"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(about, folder) from None
    if schema != SCHEMA:
        raise InputError(f"{about}: is of another version of modelcut", f"remove {folder}")
    for name, value in of.items():
        if old.get(name) != value:
            raise InputError(
                f"{folder}: an interrupted search with another {name}",
                "the same command resumes it; or remove the folder to begin anew",
            )
