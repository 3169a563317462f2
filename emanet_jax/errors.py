"""The one error that is the user's to mend."""


class UserError(ValueError):
    """A wrong flag, config value, file or folder; its message is one sentence with the remedy.

    Commands print the message alone and exit with status 1; other errors keep their traceback.
    """
