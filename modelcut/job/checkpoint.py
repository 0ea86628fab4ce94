"""What an interrupted training needs to go on: a folder with a file for each step that trains.

`checkpoint.json` says what the checkpoint is of: version, recipe, model and data by their BLAKE3.
`step-N.npz` holds the state of the training in step N: arrays, and one text of JSON. Steps that do
not train are done again; they give the same bits. Each file is written beside its place and
renamed, so that there is a whole one at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelcut.arrays.digest import of_text
from modelcut.errors import InputError, UsageError
from modelcut.runtime import Saved
from modelcut.safety import small_text

SCHEMA = "modelcut-checkpoint/1"
EVERY = 60
"""Seconds between two states."""

_ABOUT = "checkpoint.json"
_BROKEN = (
    *(ValueError, KeyError, TypeError, OSError, EOFError, RecursionError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


class Checkpoint:
    """The folder of one job."""

    def __init__(
        self,
        folder: Path,
        of: Mapping[str, str],
        *,
        resume: bool,
        every: float = EVERY,
        writes: bool = True,
    ) -> None:
        """Checks what is there, and makes the folder if nothing is.

        Args:
            folder: path of the checkpoint folder.
            of: what must be the same for a training to be the same, each by its name for messages.
            resume: whether to resume from the checkpoint, if there is one.
            every: seconds between two checkpoints.
            writes: this process saves; else it only reads.

        Raises:
            UsageError: the folder holds other things, or a checkpoint that is not to be used.
            InputError: it is the checkpoint of something else.
        """
        self.folder = folder
        self._every = every
        self._writes = writes
        mine = {name: of_text(text) for name, text in of.items()}
        about = folder / _ABOUT
        if about.is_file():
            self._check(about, mine)
            if writes and not resume:
                raise UsageError(
                    f"{folder}: holds the checkpoint of an interrupted run",
                    "--resume continues it; or remove it",
                )
            return
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder}: is not a checkpoint of modelcut", "name a new folder")
        if writes:
            folder.mkdir(exist_ok=True)
            text = json.dumps({"schema": SCHEMA, "of": mine}, indent=1)
            _replace(about, lambda path: path.write_text(text, encoding="utf-8"))

    def _check(self, about: Path, mine: Mapping[str, str]) -> None:
        try:
            found = json.loads(small_text(about))
            schema, of = found["schema"], dict(found["of"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(f"{about}: is damaged", "remove the folder, and start again") from None
        if schema != SCHEMA:
            raise InputError(f"{about}: is of another version of modelcut", "remove the folder")
        for name, digest in mine.items():
            if of.get(name) != digest:
                raise InputError(
                    f"{self.folder}: is a checkpoint of another {name}",
                    "--resume takes the same command on the same files; or remove the folder",
                )

    def keeper(self, step: int) -> FileKeeper:
        """The part of one step, by its number from 0."""
        path = self.folder / f"step-{step + 1}.npz"
        return FileKeeper(path, every=self._every, writes=self._writes)

    def remove(self) -> None:
        """Takes away what modelcut wrote, and the folder if nothing else is in it."""
        if not self._writes:
            return
        for path in [*self.folder.glob("step-*.npz"), self.folder / _ABOUT]:
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()


class FileKeeper:
    """See `runtime.Keeper`: a file of its own."""

    def __init__(self, path: Path, *, every: float, writes: bool) -> None:
        self._path = path
        self._every = every
        self._writes = writes
        self._last = time.monotonic()

    def load(self) -> Saved | None:
        """What was saved last, if anything.

        Raises:
            InputError: the file is damaged.
        """
        if not self._path.is_file():
            return None
        try:
            with np.load(self._path, allow_pickle=False) as file:
                facts = json.loads(bytes(file["facts"]).decode())
                names = facts.pop("arrays")
                arrays = {name: file[f"a{number}"] for number, name in enumerate(names)}
        except _BROKEN as error:
            raise InputError(
                f"{self._path}: is damaged: {error}", "remove the folder, and start again"
            ) from None
        return Saved(arrays, facts)

    @contextlib.contextmanager
    def fits(self) -> Iterator[None]:
        """Says which file it was, where what was loaded is not what a training takes up.

        Raises:
            InputError: that of the training, the file named; or facts are missing or unheard of,
                as they are after another commit, whose version may be the same.
        """
        other = f"{self._path}: the checkpoint is of another training"
        hint = "remove the folder, and start again"
        try:
            yield
        except (KeyError, TypeError):
            raise InputError(f"{other}: its facts do not match this version", hint) from None
        except InputError as error:
            raise InputError(f"{other}: {error.message}", hint) from None

    def due(self) -> bool:
        """Whether it is time to save again."""
        return self._writes and time.monotonic() - self._last >= self._every

    def save(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Replaces what was saved before."""
        if not self._writes:
            return
        text = json.dumps({**facts, "arrays": list(arrays)}).encode()
        parts: dict[str, Any] = {f"a{number}": part for number, part in enumerate(arrays.values())}
        parts["facts"] = np.frombuffer(text, np.uint8)

        def write(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **parts)

        _replace(self._path, write)
        self._last = time.monotonic()


def _replace(path: Path, write: Any) -> None:
    """Writes a file as a whole, or leaves what was there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
