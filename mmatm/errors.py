"""The one exception class of mmatm's own checks."""

from collections.abc import Callable, Iterable


class InputError(ValueError):
    """What the user gave cannot work; the message says why and what to do. `tools/` print it without a traceback."""


def raise_all(checks: Iterable[Callable[[], object]]) -> None:
    """Runs all checks, to report everything that is wrong at once.

    Raises:
        InputError: That of the only check that raised one, or one that lists the messages of all that did.
    """
    refusals = []
    for check in checks:
        try:
            check()
        except InputError as error:
            refusals.append(error)
    if len(refusals) == 1:
        raise refusals[0]
    if refusals:
        listed = ''.join('\n- ' + str(refusal).replace('\n', '\n  ') for refusal in refusals)
        raise InputError(f'{len(refusals)} things are wrong:{listed}')
