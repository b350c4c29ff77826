"""The one exception for what a user can mend."""


class UserError(Exception):
    """A wrong key, value or file: the message names it and says what to do, without traceback."""
