"""The one error that is the user's to mend."""


class UserError(ValueError):
    """A wrong flag, config value, file or folder; the message is one sentence that says what is right.

    The commands print the message alone and exit with status 1; everything else keeps its traceback.
    """
