"""The one exception that means: the input is wrong, and here is the mend."""

from dataclasses import MISSING, fields
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line that says what is wrong, where (file, line, argument) and what mends it.
    The command line prints it without a stack trace and exits with status 2.
    """


def cause_of(error: BaseException | None, kind: type[E]) -> E | None:
    """The exception of a kind behind another one, if there is one: libraries wrap what we raise."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def check_class_options(settings: Any) -> None:
    """Refuse a subclass that sets an option of its dataclass as a class attribute, without an
    annotation or without ``@dataclass``: the attribute would have no effect.
    """
    kind = type(settings)
    for one in fields(settings):
        if one.default is not MISSING and getattr(kind, one.name) is not one.default:
            raise InputError(
                f"{kind.__module__}.{kind.__qualname__}: the class attribute {one.name!r} has no "
                "effect; pass it to the constructor, or annotate it and decorate the class with "
                "@dataclass(kw_only=True, eq=False, repr=False)"
            )
