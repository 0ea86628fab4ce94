"""An unzipped `.keras` file: a folder with its members, as `model.save(..., zipped=False)` makes.

Only as much of `zipfile.ZipFile` as the reader of archives asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO
from zipfile import ZIP_STORED, ZipInfo

from modelcut.formats.files import OnDisk


class Folder:
    """The members of a folder; see `zipfile.ZipFile`.

    Attributes:
        filename: the folder.
    """

    def __init__(self, path: Path) -> None:
        """Looks at what is there.

        Raises:
            UnsafeError: something in it leads out of it.
            InputError: something in it is no file.
        """
        self.filename = str(path)
        self._files = OnDisk(path, str(path))
        self._files.check()

    def infolist(self) -> list[ZipInfo]:
        """The files, sorted by name."""
        return [self.getinfo(name) for name in self._files.names() if not name.endswith("/")]

    def namelist(self) -> list[str]:
        """The names of the files, sorted."""
        return [info.filename for info in self.infolist()]

    def getinfo(self, name: str) -> ZipInfo:
        """One file.

        Raises:
            KeyError: there is none of this name.
        """
        size = self._files.size(name)
        if size is None:
            raise KeyError(name)
        info = ZipInfo(name)
        info.compress_type, info.file_size, info.compress_size = ZIP_STORED, size, size
        return info

    def open(self, name: str | ZipInfo) -> IO[bytes]:
        """A file, for reading."""
        name = name.filename if isinstance(name, ZipInfo) else name
        return (Path(self.filename) / name).open("rb")

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return self._files.read(name)
