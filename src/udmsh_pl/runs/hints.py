"""What a mistake in names and an absent extra are told as."""

import difflib
from collections.abc import Sequence

from udmsh_pl import baselines, data, models
from udmsh_pl.baselines.shallow import METHODS
from udmsh_pl.errors import InputError

KINDS = {"--model": [*models.__all__, *baselines.__all__], "--data": data.__all__}
SHALLOW = "udmsh_pl.baselines.shallow.Shallow"
LOGGERS = {"WandbLogger": "log", "TensorBoardLogger": "log"}  # in which extra their package is


def missing_logger(kind: str) -> str:
    """What is told when a logger's package is not installed."""
    name = kind.rpartition(".")[2]
    extra = LOGGERS.get(name)
    mend = f"pip install 'udmsh-pl[{extra}]'" if extra else "install the package that it names"
    return f"--trainer.logger {name} needs a package that is not installed; {mend}"


def lacks_module(error: BaseException | None) -> bool:
    """Whether a package that is not installed is behind an error: the parser wraps what it gets."""
    while error is not None and not isinstance(error, ImportError):
        error = error.__cause__ or error.__context__
    return error is not None


def check_class_names(arguments: Sequence[str]) -> None:
    """Refuse a short name of a model or data module that is none of ours, and tell the near one.

    Raises:
        InputError: naming the option.
    """
    for number, argument in enumerate(arguments):
        option, sign, value = argument.partition("=")
        if option not in KINDS:
            continue
        value = value if sign else "".join(arguments[number + 1 : number + 2])
        known = KINDS[option]
        if value in known or not value.isidentifier():  # dotted paths and files are looked up later
            continue
        near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"{option} {value}: no such class; {hint} (or my_module.MyClass)")


def with_shallow_models(arguments: Sequence[str]) -> list[str]:
    """``--model ITQ`` is the model of the shallow method ITQ."""
    found: list[str] = []
    for argument in arguments:
        option, sign, value = argument.partition("=")
        before = found[-1] if found else ""
        if argument in METHODS and before in ("--model", "--model.help"):
            found.append(SHALLOW)
            found += ["--model.method", argument] if before == "--model" else []
        elif sign and option == "--model" and value in METHODS:
            found += [f"--model={SHALLOW}", f"--model.method={value}"]
        else:
            found.append(argument)
    return found
