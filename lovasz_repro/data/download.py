"""Download one file: resume a broken download, check the hash, explain failures."""

import hashlib
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from lovasz_repro.errors import DISK, UserError
from lovasz_repro.files import about, regular

TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20
ALGORITHMS = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


@dataclass(frozen=True)
class Download:
    """One file to download, and where it goes.

    digest: hexadecimal, in full or the first digits (torch.hub's file names hold eight).
    algorithm: a key of `ALGORITHMS`.
    """

    url: str
    path: Path
    digest: str
    algorithm: str = "MD5"

    @property
    def whole(self) -> bool:
        """Whether the file at `path` has the digest."""
        return self._matches(self.path)

    def _matches(self, path: Path) -> bool:
        with regular(path).open("rb") as file:
            found = hashlib.file_digest(
                file, lambda: ALGORITHMS[self.algorithm](usedforsecurity=False)
            )
        return found.hexdigest().startswith(self.digest)

    def get(self, console: Console) -> None:
        """Download the file, resuming what an earlier call left, and check its digest.

        An unfinished download is called ``<name>.part``. A file that exists under its full name is
        not downloaded again, only checked.

        Raises: UserError: no network, or a corrupt file; the message says what to do by hand.
        """
        if self.path.exists():
            if not self.whole:
                raise UserError(
                    f"{self.path}: the file is corrupt, incomplete or another one (its "
                    f"{self.algorithm} sum is not {self.digest}); delete it and run the command "
                    "again."
                )
            return
        part = self.path.with_name(self.path.name + ".part")
        try:
            _receive(self.url, part, console)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in DISK:
                raise  # not the network's fault
            raise UserError(
                f"Could not download {self.url} ({error}). Run the command again to go on from "
                "where it stopped. Or, by hand: fetch that file on a machine that can reach it "
                f"({self.algorithm} {self.digest}), copy it to {self.path}, and run the command "
                "again."
            ) from error
        if not self._matches(part):
            part.unlink()
            raise UserError(
                f"{self.path}: what {self.url} sent is corrupt (its {self.algorithm} sum is not "
                f"{self.digest}) and was deleted; run the command again."
            )
        part.replace(self.path)


def _receive(url: str, part: Path, console: Console) -> None:
    """Append the missing rest of ``url`` to ``part``, or all of it if the server cannot resume."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "lovasz-repro"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing
        raise
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with response, Progress(*columns, console=console) as progress, about(part):
        goes_on = response.status == http.client.PARTIAL_CONTENT
        have = have if goes_on else 0
        total = have + response.length if response.length is not None else None
        task = progress.add_task(f"Downloading {part.stem}", total=total, completed=have)
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                progress.advance(task, len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"the connection broke off at {part.stat().st_size} of {total} bytes")
