"""The command ``udmsh``: finds a command's module, loads it, and turns mistakes into one line."""

import argparse
import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from udmsh_pl import __version__
from udmsh_pl.errors import InputError, cause_of
from udmsh_pl.safe.profile import clock, profiled
from udmsh_pl.safe.shipped import plans

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PATH = (
    errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS,
)  # fmt: skip
LIGHTNING = ("fit", "validate", "test", "predict")
COMMANDS = {
    "reproduce": "train, score and report every method of a plan (--bits, --seeds, --methods)",
    "table": "print a run's table (--format markdown|csv|latex)",
    "data": "check a benchmark, export its split, extract its features",
    "evaluate": "score codes that come from anywhere",
    "index": "make a folder of pictures searchable, or bring its index up to date",
    "search": "pictures of an index that look like a picture",
    "duplicates": "groups of copies among the pictures of an index",
    "serve": "search an index in the browser, look at its copies and its map",
    "export": "a checkpoint as one graph for other programs: ONNX, OpenVINO, TorchScript",
}  # each is a module of udmsh_pl.commands: add_arguments(parser) and run(args) -> exit status


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a mistake of the user ends with one line on stderr and status 2."""
    arguments = list(sys.argv[1:] if args is None else args)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # `class_path: my_module.MyHash`; last, so it hides nothing
    # Lightning and jsonargparse against newer versions of each other; nothing a user can mend
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="jsonargparse.*")
    # torch reads it when it is imported: threads sleep between their small tasks instead of
    # spinning, which on shared cores more than doubles the processor time of a step
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _escape_output()
    try:
        if any("\0" in argument for argument in arguments):
            raise InputError("an argument holds a NUL, which no name of a file can")
        status = _dispatch(arguments)
    except ValueError as error:
        cause = cause_of(error, InputError)
        if cause is None:
            raise
        # a data worker's error arrives with its traceback
        status = _complain(str(cause).rsplit("InputError: ", 1)[-1].strip())
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns an interrupted training into status 1
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        print("udmsh: interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:  # `udmsh table runs/x | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except PermissionError as error:
        status = _complain(f"{error.filename}: permission denied; mend its permissions")
    except OSError as error:
        if error.errno in NO_PATH and error.filename:
            sys.exit(_complain(f"{error.filename}: {error.strerror}; give another path"))
        if error.errno not in NO_ROOM:
            raise
        where, mend = error.filename or "a log of the run", "free some room and run again"
        status = _complain(f"{where} cannot be written ({error.strerror}); {mend}")
    if args is None and arguments[:1] == ["search"]:  # taking OpenVINO down is a sixth of a search
        with suppress(OSError):  # `udmsh search X Y | head`
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _escape_output() -> None:
    """Print what a terminal's encoding lacks as escapes, names that are no UTF-8 as their bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"udmsh {__version__}")
        return 0
    command, *rest = arguments
    if command in LIGHTNING:
        from udmsh_pl.commands import lightning

        return lightning.run(arguments)
    if command not in COMMANDS:
        import difflib

        known = [*COMMANDS, *LIGHTNING]
        near = difflib.get_close_matches(command, known, n=1)
        mend = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"no command {command!r}; {mend}")
    with profiled():
        with clock("imports"):
            module = importlib.import_module(f"udmsh_pl.commands.{command}")
        parser = argparse.ArgumentParser(f"udmsh {command}", description=module.__doc__)
        module.add_arguments(parser)
        if getattr(module, "TAKES_OVERRIDES", False):  # --trainer.*, --model.*, --data.* of a yaml
            args, overrides = parser.parse_known_args(rest)
            args.overrides, args.arguments = overrides, rest
        else:
            args = parser.parse_args(rest)
        status: int = module.run(args)
    return status


def _complain(message: str) -> int:
    print(f"udmsh: error: {message}", file=sys.stderr)
    return 2


def _help() -> str:
    lines = [f"  {name:24} {text}" for name, text in COMMANDS.items()]
    lightning = "Lightning's subcommands: --config X.yaml, any --trainer.*, --model.*, --data.*"
    lines.append(f"  {'|'.join(LIGHTNING):24} {lightning}")
    names = f"plans, for `udmsh reproduce NAME` and --config NAME: {', '.join(plans())}"
    last = "Each command has --help; `udmsh fit --model.help UDMSH` lists a model's options."
    return "\n".join(["usage: udmsh COMMAND ...", "", *lines, "", names, last])
