"""The one exception that means: the input is wrong, and here is the mend."""


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line that says what is wrong, where (file, line, argument) and what mends it.
    The command line prints it without a stack trace and exits with status 2.
    """
