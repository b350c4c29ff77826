"""Errors that a user can fix: our exception, and the system's errors about a disk."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A wrong key, value or file: the message names it and says what to do, without traceback."""


DISK = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ESTALE, errno.ELOOP, errno.ENAMETOOLONG,
}  # fmt: skip
"""Error numbers that concern the disk, not the program."""


def choices(name: str, there: Iterable[str]) -> str:
    """The end of a message about the wrong `name`: the nearest valid names, then all of them."""
    names = list(there)
    by_case = {n.casefold(): n for n in reversed(names)}
    near = [by_case[n] for n in get_close_matches(name.casefold(), list(by_case), 2)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}There is {', '.join(names)}" if hint else f"there is {', '.join(names)}"
