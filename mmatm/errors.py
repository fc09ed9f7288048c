"""The one exception class of mmatm's own checks."""


class InputError(ValueError):
    """What the user gave cannot work; the message says why and what to do. `tools/` print it without a traceback."""
