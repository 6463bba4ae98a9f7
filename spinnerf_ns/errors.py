"""The one exception that this package raises for what a user can mend."""


class SpinnerfError(RuntimeError):
    """What was found, what was expected, and the command or step that mends it, in one line.

    Commands print the message without a traceback and exit with status 1.
    """
