"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class InputError(ValueError):
    """Something the user gave cannot be used: says what was found, in which unit, and the remedy.

    The command line prints it without a traceback and exits with code 1.
    """
