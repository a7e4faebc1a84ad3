"""``udmsh fit | validate | test | predict``: Lightning's subcommands."""

import logging

from udmsh_pl.runs.lightning_cli import UdmshCLI


def run(arguments: list[str]) -> int:
    """Run one of Lightning's subcommands, ``arguments[0]``; gives the exit status 0."""
    rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    rank_zero.addFilter(lambda record: "Tip:" not in record.getMessage())
    UdmshCLI(arguments)
    return 0
