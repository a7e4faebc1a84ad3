"""``udmsh fit | validate | test | predict``: Lightning's subcommands."""

import logging

from udmsh_pl.runs.lightning_cli import UdmshCLI
from udmsh_pl.safe.shipped import plan_file

CONFIG = ("--config", "-c")


def run(arguments: list[str]) -> int:
    """Run one of Lightning's subcommands, ``arguments[0]``; gives the exit status 0."""
    rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    rank_zero.addFilter(lambda record: "Tip:" not in record.getMessage())
    UdmshCLI(with_plan_files(arguments))
    return 0


def with_plan_files(arguments: list[str]) -> list[str]:
    """Let ``--config sample`` name a plan that comes with the package."""
    found, awaited = [], False
    for argument in arguments:
        option, sign, value = argument.partition("=")
        if awaited:
            argument = str(plan_file(argument))
        elif sign and option in CONFIG:
            argument = f"{option}={plan_file(value)}"
        awaited = argument in CONFIG
        found.append(argument)
    return found
