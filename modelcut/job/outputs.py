"""Where results go: nothing appears at its place before all of it is there.

Each file or folder is written under a hidden name beside its place, flushed, and renamed at the
end. What is not published is removed, whatever ended the work.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import platform
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from modelcut.arrays.digest import of_text
from modelcut.errors import ResourceError, UsageError

_SCRATCH = re.compile(r"\..*\.(\d+)-([0-9a-f]{6})[0-9a-f]{8}\.part(?!.*\.old$)", re.DOTALL)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        self.published: list[Path] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="modelcut-flush")
        self._flushed: list[Future[None]] = []

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            self._name(error)
        self._pool.shutdown(wait=True)
        for scratch, _place in self._files:
            with contextlib.suppress(OSError):
                if scratch.is_dir():
                    shutil.rmtree(scratch, ignore_errors=True)
                else:
                    scratch.unlink()
        self._files.clear()

    def add(self, place: Path, *, folder: bool = False) -> Path:
        """Checks that `place` may be written, and gives the hidden name to write to.

        Args:
            place: path of the result.
            folder: it is one; an empty folder waits at the hidden name.

        Raises:
            UsageError: the place is an input, is taken, or has no folder.
            ResourceError: its folder cannot be written to.
        """
        self.check(place, folder=folder)
        remove_scratch(place.parent, is_dead, begins=f".{place.name[:100]}.")
        scratch = place.parent / scratch_name(place.name[:100])
        self._files.append((scratch, place))  # first: a signal may come at any moment
        try:
            if folder:
                scratch.mkdir()
            else:
                os.close(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            self._files.pop()
            raise ResourceError(f"{place}: cannot be written: {error.strerror}") from None
        return scratch

    def _name(self, error: OSError) -> None:
        """Has an error name the file that was to be written, not its hidden name."""
        shown = str(error.filename or "")
        for scratch, place in self._files:
            if shown.startswith(str(scratch)):
                error.filename = str(place)
                return
        if not shown and error.errno in _FULL and self._files:
            error.filename = str(self._files[0][1])

    def flush(self, scratch: Path) -> None:
        """Begins to bring a file or folder that is written to the disk, beside other work."""
        self._flushed.append(self._pool.submit(_flush, scratch))

    def drop(self, scratch: Path) -> None:
        """Gives up one of the files; the others are published without it."""
        self._files = [(one, place) for one, place in self._files if one != scratch]
        with contextlib.suppress(OSError):
            scratch.unlink()

    def redirect(self, scratch: Path, place: Path) -> None:
        """Has a file or folder published at another place.

        Raises:
            UsageError: that may not be written; see `check`.
        """
        self.check(place, folder=scratch.is_dir())
        self._files = [(one, place if one == scratch else old) for one, old in self._files]

    def publish(self) -> None:
        """Flushes every file to the disk and renames it to its place."""
        for flushed in self._flushed:
            flushed.result()
        for scratch, _ in self._files:
            _flush(scratch)
        while self._files:
            scratch, place = self._files[0]
            try:
                if scratch.is_dir() and place.is_dir():
                    _replace_folder(scratch, place)
                else:
                    os.replace(scratch, place)
            except OSError as error:
                if not self.published:
                    raise
                raise ResourceError(
                    f"{place}: cannot be written: {error.strerror}",
                    f"written all the same: {', '.join(map(str, self.published))}",
                ) from None
            self.published.append(place)
            self._files.pop(0)

    def check(self, place: Path, *, folder: bool = False) -> None:
        """Refuses a place that must not be written to; looks only.

        Args:
            place: path of the result.
            folder: it is one.

        Raises:
            UsageError: the place is an input, is taken, or has no folder.
        """
        _check_name(place)
        if place.is_symlink() and not place.exists():
            raise UsageError(
                f"{place}: is a link to what does not exist", "remove it, or name another file"
            )
        if place.exists() and not (place.is_file() or place.is_dir()):
            # Not even by force: whoever may write in /dev would lose the device.
            raise UsageError(f"{place}: is not a regular file", "name a file on disk")
        if place.is_dir() and not folder:
            raise UsageError(f"{place}: is a folder", "name a file")
        if folder and place.exists() and not place.is_dir():
            raise UsageError(f"{place}: is a file", "name a folder that does not exist")
        if folder:
            self._check_apart(place)
        if not place.exists():
            return
        for index, source in enumerate(self._inputs):
            if source.exists() and os.path.samefile(source, place):
                if index == 0 and self._in_place and not place.is_symlink():
                    return
                hint = "name another file, or --in-place" if index == 0 else "name another file"
                raise UsageError(f"{place}: is the input {source}", hint)
        if folder and not any(place.iterdir()):
            return
        if folder and not any((place / name).is_file() for name in _MODEL_FILES):
            # Not even by force: all that is in a folder would go with it.
            raise UsageError(f"{place}: is a folder with other files", "name a new folder")
        if not (self._force or self._ours(place)):
            raise UsageError(
                f"{place}: exists, and modelcut did not write it", "name another file, or --force"
            )

    def _check_apart(self, place: Path) -> None:
        """A folder that is replaced must hold no input, nor lie in one."""
        mine = place.resolve()
        for source in self._inputs:
            other = source.resolve()
            if mine in other.parents:
                raise UsageError(f"{place}: contains the input {source}", "name another folder")
            if other.is_dir() and other in mine.parents:
                raise UsageError(f"{place}: is inside the input {source}", "name another folder")


def _check_name(place: Path) -> None:
    """Refuses what names no file of this machine in a folder that is there.

    Raises:
        UsageError: it is remote, stands for stdout, or has no folder.
    """
    if "://" in str(place):
        raise UsageError(f"{place}: only local files are written")
    if str(place) == "-":
        raise UsageError("-: files are not written to stdout", "name a file")
    if not place.parent.is_dir():
        raise UsageError(f"{place}: its folder does not exist", f"mkdir -p {place.parent}")


def check_appended(
    place: Path, inputs: Sequence[Path], outputs: Sequence[Path], suffixes: Sequence[str]
) -> None:
    """Refuses to append text to a file that is not for it; looks only.

    Args:
        place: path of a text file, which need not exist.
        inputs: files and folders that are read.
        outputs: files and folders that are written, which need not be there.
        suffixes: suffixes of files of other kinds.

    Raises:
        UsageError: it is one of these, or no page of text by its name or by what it holds.
        ResourceError: it cannot be written to.
    """
    _check_name(place)
    if place.is_dir():
        raise UsageError(f"{place}: is a folder", "name a file")
    here = place.resolve()
    for what, others in (("input", inputs), ("output", outputs)):
        for other in others:
            linked = place.exists() and other.exists() and os.path.samefile(place, other)
            if linked or other.resolve() in (here, *here.parents):
                raise UsageError(f"{place}: is the {what} {other}", "name another file")
    odd = next((suffix for suffix in suffixes if place.name.lower().endswith(suffix)), None)
    if odd is not None:
        raise UsageError(f"{place}: Markdown is not appended to a {odd} file", "name it .md")
    if place.is_file():
        with place.open("rb") as file:
            head = file.read(1 << 16)
        text = codecs.getincrementaldecoder("utf-8")()  # a character may be cut at the end
        try:
            binary = "\0" in text.decode(head)
        except UnicodeDecodeError:
            binary = True
        if binary:
            raise UsageError(f"{place}: is not a text file", "name another file")
    if not os.access(place if place.exists() else place.parent, os.W_OK):
        raise ResourceError(f"{place}: cannot be written")


def remove_scratch(
    folder: str | Path, gone: Callable[[int], bool], *, begins: str = ".", here: str = ""
) -> None:
    """Removes hidden files of processes that ended without doing so, as SIGKILL has it.

    What `_replace_folder` sets aside is the user's own, and stays.

    Args:
        folder: where they are looked for.
        gone: tells whether the process of this number is one of these.
        begins: what their names begin with.
        here: `_here()`: numbers of processes of another machine mean nothing on this one.
    """
    here = here or _here()
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            found = _SCRATCH.match(entry.name)
            if not (found and entry.name.startswith(begins) and found[2] == here):
                continue
            if not gone(int(found[1])):
                continue
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def scratch_name(name: str) -> str:
    """A hidden name for what this process writes, by which `remove_scratch` knows it."""
    return f".{name}.{os.getpid()}-{_here()}{os.urandom(4).hex()}.part"


def _here() -> str:
    """Six digits for this machine and its table of processes: a container has one of its own."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return of_text(f"{platform.node()} {space}")[:6]


def is_dead(process: int) -> bool:
    """Whether there is no process of this number, or one that only waits to be reaped."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    with contextlib.suppress(OSError, IndexError):
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[0] in "ZX"
    return False


def _flush(scratch: Path) -> None:
    for path in scratch.rglob("*") if scratch.is_dir() else [scratch]:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")


def _replace_folder(scratch: Path, place: Path) -> None:
    """Puts one folder into the place of another, which is back there if that fails."""
    old = scratch.with_name(f"{scratch.name}.old")
    os.rename(place, old)
    try:
        os.rename(scratch, place)
    except BaseException:
        os.rename(old, place)
        raise
    shutil.rmtree(old, ignore_errors=True)
