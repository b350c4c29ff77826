"""The one exception for what a user can mend."""


class UserError(Exception):
    """A wrong key, value or file. The message names it and says what to do; no traceback is shown."""
