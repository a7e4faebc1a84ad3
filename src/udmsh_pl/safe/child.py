"""Parsers that may crash or run away work in a child process with limits of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from udmsh_pl.errors import InputError
from udmsh_pl.safe.untrusted import limit, over

_SPARE_SECONDS = 20  # beyond a second for each 20 MB: start, imports, a busy machine
# The script's imports come before the limit on memory, which is over what they took.
_BOOT = """
import errno, json, runpy, sys
paths, seconds, memory, script, error_file, arguments = json.loads(sys.argv[1])
sys.path[:] = paths
try:
    import resource
except ImportError:
    resource = None
def at_most(name, value):
    if resource is not None and hasattr(resource, name):
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
at_most("RLIMIT_CORE", 0)
at_most("RLIMIT_CPU", seconds)
at_most("RLIMIT_FSIZE", memory)
try:
    work = runpy.run_path(script)["work"]
    try:
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        at_most("RLIMIT_AS", used + memory)
    except OSError:
        pass
    work(*arguments)
except Exception as error:
    kind = type(error).__name__
    if kind == "ArrowMemoryError" or getattr(error, "errno", None) == errno.EFBIG:
        kind = "MemoryError"
    with open(error_file, "w", encoding="utf-8") as stream:
        json.dump([kind, str(error)[:2000]], stream)
    sys.exit(3)
"""


def run_isolated(script: Path, arguments: Sequence[str], source: Path, folder: Path) -> None:
    """Call ``work(*arguments)`` of a Python file in a fresh, isolated interpreter.

    The file may import nothing of this package, since it runs alone. What it does not want to read
    it raises ``Refused`` for. It leaves its answer in ``folder``; that is as little to be trusted
    as ``source``.

    Args:
        script: the file, with a function ``work``.
        arguments: strings for that function.
        source: the file that it reads, for messages and the time it may take.
        folder: an empty folder for the answer.

    Raises:
        InputError: the child raised, crashed, or took more time or memory than it may.
    """
    error_file = folder / "error.json"
    seconds = _SPARE_SECONDS + source.stat().st_size // 20_000_000
    memory = (64 << 20) + 2 * limit("BYTES")  # sparse and dense, or packed and unpacked
    paths = [path for path in sys.path if path and Path(path).is_absolute()]
    task = [paths, seconds, memory, str(script), str(error_file), list(arguments)]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    # Arrow's own allocators reserve address space that the limit would count
    environment = {**os.environ, **one_thread, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    try:
        status = subprocess.run(
            [sys.executable, "-I", "-c", _BOOT, json.dumps(task)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=2 * seconds,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{source}: reading took over {2 * seconds} s: it is damaged") from error
    if status == 0:
        return
    if not error_file.is_file() or not error_file.stat().st_size:
        told = f"signal {-status}" if status < 0 else f"status {status}"
        raise InputError(f"{source}: its parser crashed ({told}): the file is damaged or hostile")
    try:
        kind, text = json.loads(error_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{source}: its parser crashed: the file is damaged") from error
    if kind == "MemoryError":
        raise InputError(f"{source}: to read it takes {over('BYTES')}")
    text = " ".join(str(text).split())
    if kind == "Refused":
        raise InputError(f"{source}: {text[:300]}")
    raise InputError(f"{source} cannot be read safely ({kind}: {text[:200]}): save it again")
