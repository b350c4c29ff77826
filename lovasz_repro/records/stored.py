"""The files of a run: from its folder, or from the `records.zip` that a report keeps of one.

Either may be untrusted: no file outside of it is read, and sizes are limited.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from lovasz_repro.errors import UserError
from lovasz_repro.files import regular

FILE_BYTES = 32 << 20
"""Limit of one file. The largest, an images.csv of VOC's 1,449 val images, takes 0.3 MB."""
ALL_BYTES = 512 << 20
"""Limit of an unpacked archive. A thousand cells of 140 images take 20 MB."""


class Stored:
    """The files of a run by their paths below it.

    Raises: UserError naming the archive, and the file in it, that cannot be read.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._packed = _unpack(runs) if runs.suffix == ".zip" else None
        self._inside: dict[str, bool] = {}

    def path(self, name: str) -> Path:
        """Where a file is, for messages: the archive's path and the name in it."""
        return self.runs / name

    def __contains__(self, name: str) -> bool:
        return name in self._packed if self._packed is not None else self.path(name).is_file()

    def read(self, name: str) -> bytes:
        """The file's content. Raises: UserError if it is missing, too large or outside the run."""
        path = self.path(name)
        if self._packed is not None:
            if name not in self._packed:
                raise UserError(f"{path}: cannot be read (not in the archive)")
            return self._packed[name]
        self._check_inside(name)
        try:
            if path.is_symlink() or not path.is_file():
                kind = "a link" if path.is_symlink() else "missing" if not path.exists() else None
                raise UserError(f"{path}: cannot be read ({kind or 'not a regular file'})")
            with path.open("rb") as file:
                content = file.read(FILE_BYTES + 1)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error})") from error
        if len(content) > FILE_BYTES:
            raise UserError(f"{path}: larger than {FILE_BYTES >> 20} MiB, which no record is")
        return content

    def _check_inside(self, name: str) -> None:
        """Refuse a folder that is a link to somewhere else."""
        folder = os.path.dirname(name)
        if folder not in self._inside:
            here, root = os.path.realpath(self.runs / folder), os.path.realpath(self.runs)
            self._inside[folder] = here == os.path.normpath(os.path.join(root, folder))
        if not self._inside[folder]:
            raise UserError(
                f"{self.path(folder)}: leads out of {self.runs}, which a record may not"
            )


def _unpack(archive: Path) -> dict[str, bytes]:
    """All files of an archive, each checked against its CRC."""
    name, size = "", 0
    found: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(regular(archive)) as file:
            for member in file.infolist():
                if not member.filename.isprintable():
                    said = repr(member.filename[:200])
                    raise UserError(f"{archive}: a file in it cannot be called {said}")
                name = member.filename
                size += member.file_size
                if member.file_size > FILE_BYTES or size > ALL_BYTES:
                    raise UserError(
                        f"{archive}/{name}: too large to be read: at most {FILE_BYTES >> 20} MiB a "
                        f"file and {ALL_BYTES >> 20} MiB in all"
                    )
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise UserError(f"{archive}/{name}: compressed in a way that a report never is")
                with file.open(member) as stream:  # read() unbounded unpacks more than file_size
                    content = stream.read(member.file_size + 1)
                if name in found:
                    raise UserError(f"{archive}/{name}: there twice; get the archive anew")
                if not member.is_dir():
                    found[name] = content
    except UserError:
        raise
    except Exception as error:  # zipfile raises many kinds for a damaged archive
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{archive}: cannot be read ({error.strerror})") from error
        if isinstance(error, zipfile.BadZipFile) and not name:
            raise UserError(f"{archive}: not a zip archive ({error})") from error
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{archive / name}: damaged ({said}); get the archive anew") from error
    return found
