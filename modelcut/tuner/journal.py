"""What an interrupted search needs to go on: a folder with its trials so far.

`search.json` says what the search is of; `trials.jsonl` has a line for each trial, written when it
is done; Optuna keeps its own journal beside it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelcut.errors import InputError, UsageError

_ABOUT = "search.json"
_TRIALS = "trials.jsonl"
SCHEMA = "modelcut-search-journal/1"


class Journal:
    """The folder of one search.

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

    def records(self) -> list[dict[str, Any]]:
        """The trials that are done, in the order in which they ended."""
        path = self.folder / _TRIALS
        if not path.is_file():
            return []
        found = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError):  # the last line of a search that was killed
                continue
        return found

    def add(self, record: Mapping[str, Any]) -> None:
        """Keeps a trial."""
        with (self.folder / _TRIALS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
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
    if not folder.exists():
        return 0
    if not folder.joinpath(_ABOUT).is_file():
        raise UsageError(f"{folder}: is no journal of modelcut", "remove it by hand if need be")
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    shutil.rmtree(folder)
    return size


def _check(about: Path, of: Mapping[str, str]) -> None:
    folder = about.parent
    try:
        found = json.loads(about.read_text(encoding="utf-8"))
        schema, old = found["schema"], dict(found["of"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{about}: is damaged", f"remove {folder} to begin anew") from None
    if schema != SCHEMA:
        raise InputError(f"{about}: is of another version of modelcut", f"remove {folder}")
    for name, value in of.items():
        if old.get(name) != value:
            raise InputError(
                f"{folder}: an interrupted search with another {name}",
                "the same command resumes it; or remove the folder to begin anew",
            )
