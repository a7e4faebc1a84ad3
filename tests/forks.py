"""A ``python`` that has imported everything: a start costs tenths of a second, not ten.

``python -m tests.forks FOLDER`` imports what the command line uses, writes ``FOLDER/python`` and
waits until its standard input ends; then it removes the folder. ``FOLDER/python -m udmsh_pl
ARGUMENTS...`` is ``python -m udmsh_pl ARGUMENTS...`` in a process of its own: forked, with the
caller's folder, environment and files, and its exit status or signal. Ranks and workers that the
command starts are forked too, and so are ``-m tests...``, ``-c CODE`` and ``FILE.py``. What else
``FOLDER/python`` is asked for, the real one does. Figures stay blank, as in ``conftest``.
``FOLDER/python -u -c CODE`` is a worker of pytest-xdist: its figures are drawn, and what it starts
as ``sys.executable`` is the real one.
"""

import atexit
import gc
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILES = (0, 1, 2)


def start(folder: Path) -> "subprocess.Popen[str]":
    """Make ``FOLDER/python``, which works until the returned process has its input closed."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forks", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def serve(folder: Path) -> None:
    """Import, then fork for each connection, until standard input ends."""
    # timm would import W&B, which makes a folder that the first fork to end would remove
    sys.modules["wandb"] = None  # type: ignore[assignment]
    import udmsh_pl.commands.reproduce
    import udmsh_pl.runs.lightning_cli
    import udmsh_pl.runs.reproduce
    import udmsh_pl.search.build
    import udmsh_pl.serve.server  # noqa: F401

    del sys.modules["wandb"]
    os.chdir(folder)  # the path of a socket must be short
    real = shlex.join([sys.executable, "-I", "-S", __file__, str(folder), sys.executable])
    python = folder / "python"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        listener.listen(64)
        python.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
        python.chmod(0o700)
        print("ready", flush=True)
        gc.freeze()
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                answer(connection, str(python))
            connection.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # collect the children that have answered
                    pass
        with suppress(ChildProcessError):
            while os.wait():  # so that whoever measures this process has their seconds too
                pass
    shutil.rmtree(folder)


def answer(connection: socket.socket, python: str) -> None:
    """Run what a connection asks for in a child, pass its number and its status on, and exit."""
    head, files, _, _ = socket.recv_fds(connection, 4, len(FILES))
    with connection.makefile("rb") as stream:
        asked = json.loads(stream.read(*struct.unpack("!I", head)))
    child = os.fork()
    if not child:
        connection.close()
        run(asked, files, python)
    for file in files:
        os.close(file)
    connection.sendall(struct.pack("!i", child))
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if select.select([connection], [], [], 0.02)[0]:  # the caller is dead
            os.kill(child, signal.SIGKILL)
    with suppress(OSError):
        connection.sendall(struct.pack("!i", os.waitstatus_to_exitcode(status)))
    os._exit(0)


def run(asked: dict[str, Any], files: list[int], python: str) -> None:
    """Be ``python -m MODULE ARGUMENTS...``, and exit."""
    status = 1
    try:
        for number, file in zip(FILES, files, strict=True):
            os.dup2(file, number)
            os.close(file)
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["folder"])
        sys.path[0] = asked["folder"]
        sys.path += asked["environment"].get("PYTHONPATH", "").split(os.pathsep)
        arguments = asked["arguments"]
        if arguments[0] == "-u":
            del arguments[0]
        else:
            from matplotlib.figure import Figure

            Figure.draw = lambda *_: None  # type: ignore[method-assign]
            sys.executable = python
        execute(*arguments)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def execute(what: str, *arguments: str) -> None:
    """Do what Python does with these arguments."""
    sys.argv = [what, *arguments]
    if what == "-m":
        del sys.argv[1]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        del sys.argv[1]
        exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(what).resolve().parent)
        runpy.run_path(what, run_name="__main__")


def call(folder: str, real: str, arguments: list[str]) -> int:
    """What ``FOLDER/python`` does."""
    here = os.getcwd()  # noqa: PTH109
    asked = {"arguments": arguments, "folder": here, "environment": dict(os.environ)}
    text = json.dumps(asked).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            what, *rest = arguments
            ours = what == "-m" and rest[0].startswith(("udmsh_pl", "tests."))
            ours = ours or what == "-c" or what.endswith(".py") or arguments[:2] == ["-u", "-c"]
            if not ours:
                raise ValueError
            os.chdir(folder)
            connection.connect("socket")
        except (ValueError, OSError):  # not a command of ours, or the server has ended
            os.chdir(here)
            os.execv(real, [real, *arguments])
        socket.send_fds(connection, [struct.pack("!I", len(text))], FILES)
        connection.sendall(text)
        child = number(connection)
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda which, _: os.kill(child, which))
        status = number(connection)
    if status < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def number(connection: socket.socket) -> int:
    """The next one that was sent."""
    (found,) = struct.unpack("!i", connection.recv(4))
    return int(found)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(Path(sys.argv[1]))
    else:
        sys.exit(call(sys.argv[1], sys.argv[2], sys.argv[3:]))
