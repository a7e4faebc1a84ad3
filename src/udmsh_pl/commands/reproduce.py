"""Train, score and report every (method, bits, seed) cell of a plan, each once."""

import argparse
from pathlib import Path

from udmsh_pl.safe.profile import FILE, clock, write_profile
from udmsh_pl.safe.shipped import plan_file, plans

TAKES_OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``udmsh reproduce``; all others go to Lightning's parser."""
    parser.epilog = "Any --trainer.*, --model.* and --data.* overrides the plan's yaml."
    add = parser.add_argument
    add("plan", help=f"a yaml, or one of {', '.join(plans())}")
    add("--bits", type=int, nargs="+", help="code lengths instead of the plan's")
    add("--seeds", type=int, nargs="+", help="seeds instead of the plan's")
    add("--methods", nargs="+", help="only these methods of the plan")
    add("--jobs", type=int, default=1, help="workers that share the cells")
    where = "cells as tasks of a Ray cluster: auto for the one of this machine, or HOST:PORT"
    add("--ray", metavar="ADDRESS", help=where)
    profile = f"print where the time went, and write it to {FILE} in the run directory"
    add("--profile", action="store_true", help=profile)
    add("--verbose", action="store_true", help="show what Lightning says, too")
    add("--out", type=Path, help="run directory (default: runs/<name of the yaml>)")


def run(args: argparse.Namespace) -> int:
    """Run the plan; gives the exit status: 1 where a cell is missing."""
    with clock("imports"):
        from udmsh_pl.errors import InputError
        from udmsh_pl.reports.run_directory import RunDirectory
        from udmsh_pl.runs.cells import Configuration, Runner
        from udmsh_pl.runs.reproduce import reproduce

    if args.jobs < 1:
        raise InputError(f"--jobs is {args.jobs}; give the number of workers, at least 1")
    if args.ray and args.jobs > 1:
        raise InputError("--jobs and --ray are two ways to share the cells; give one of them")
    source = plan_file(args.plan)
    with clock("parsing"):
        configuration = Configuration(source, args.overrides)
    plan = configuration.plan.narrowed(str(source), args.bits, args.seeds, args.methods)
    out = args.out or Path("runs") / source.stem
    if args.ray and configuration.ranks() > 1:
        raise InputError("--ray trains each cell on one device; leave out --trainer.devices")
    if args.profile and (args.jobs > 1 or args.ray or configuration.ranks() > 1):
        mend = "leave out --jobs, --ray and --trainer.devices"
        raise InputError(f"--profile is of one process; {mend}")
    run = Runner(configuration, plan, RunDirectory(out), args.verbose, args.profile)
    status = reproduce(run, ["reproduce", *args.arguments], args.jobs, args.ray)
    if args.profile:
        print(f"\n{write_profile(out)}")
    return status
