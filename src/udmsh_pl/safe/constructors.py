"""Constructors of our Lightning modules: options that a subclass passes on stay visible, none is
set beside the constructor, and numbers lie in their range.
"""

import inspect
import math

from udmsh_pl.errors import InputError


def check_constructor(cls: type, base: type) -> None:
    """Make the constructor's options visible to the command line, and refuse options that are set
    where they have no effect.

    A method that passes options on writes ``**options: Unpack[SomeTypedDict]``, which a type
    checker reads. For the help, jsonargparse follows plain ``**options`` to the base's constructor,
    with defaults and explanations, but stops at ``Unpack``; so the annotation is taken off.

    Args:
        cls: the class that was just defined, as ``__init_subclass__`` gets it
        base: the base class whose constructor sets the options as attributes

    Raises:
        InputError: a class attribute has the name of an option, which the constructor overwrites.
    """
    init = cls.__dict__.get("__init__")
    if init is not None:
        for parameter in inspect.signature(init).parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                init.__annotations__.pop(parameter.name, None)
    for name in sorted(options_of(cls, base) & set(cls.__dict__)):
        raise InputError(
            f"{cls.__module__}.{cls.__qualname__}: the class attribute {name!r} has no effect, "
            f"since the constructor sets {name}; pass it to the constructor, or give __init__ the "
            f"argument {name} with that default"
        )


def check_range(name: str, value: float | None, most: float | None = None) -> None:
    """Refuse a model's number below 0 or above ``most``; without ``most`` None is allowed too.

    Raises:
        InputError: naming the option.
    """
    allowed = most is None if value is None else 0 <= value <= (math.inf if most is None else most)
    if not allowed:
        mend = "of at least 0, or null" if most is None else f"from 0 to {most}"
        raise InputError(f"{name} is {value}; give --model.{name} a number {mend}")


def options_of(cls: type, base: type) -> set[str]:
    """Names of the options that the constructors of ``cls`` and its parents up to ``base`` take."""
    names: set[str] = set()
    for parent in cls.__mro__[: cls.__mro__.index(base) + 1]:
        init = parent.__dict__.get("__init__")
        parameters = inspect.signature(init).parameters.values() if init is not None else ()
        names |= {one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
    return names


def takes(cls: type, name: str) -> bool:
    """Whether the constructor has the option, or passes it on to a parent's that has it."""
    for parent in cls.__mro__:
        init = parent.__dict__.get("__init__")
        if init is None:
            continue
        parameters = inspect.signature(init).parameters
        if name in parameters:
            return True
        if all(one.kind is not inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
            return False
    return False
