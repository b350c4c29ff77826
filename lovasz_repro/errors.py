"""What a user can mend: one exception of ours, and the system's errors about a disk."""

import errno


class UserError(Exception):
    """A wrong key, value or file: the message names it and says what to do, without traceback."""


DISK = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ESTALE,
}  # fmt: skip
"""Errors of the system that say something of a disk, not of the program."""
