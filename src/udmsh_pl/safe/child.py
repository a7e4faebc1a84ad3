"""Child processes with limits: a parser that may crash or run away works in one of its own."""

import errno
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal, cast

from udmsh_pl.errors import InputError
from udmsh_pl.safe.untrusted import limit, over, reason_of

Cause = Literal["refused", "memory", "time", "crash", "error"]

_MOST_ANSWER = 1 << 26  # bytes
_SPARE_SECONDS = 20  # beyond a second for each 20 MB: start, imports, a busy machine
_LENGTHS = struct.Struct(">QQ")
_START = """
import json, sys
paths, *limits = json.loads(sys.argv[1])
sys.path[:] = paths
from udmsh_pl.safe.child import work
work(*limits)
"""


class ChildFailure(Exception):
    """A child process gave no answer; ``text`` is its exception in a few words, or how it ended.

    The cause is ``refused`` (it raised InputError), ``memory`` or ``time`` (more than it may take),
    ``crash`` (it ended, or wrote nonsense) or ``error`` (any other exception).
    """

    def __init__(self, cause: Cause, text: str) -> None:
        super().__init__(text)
        self.cause, self.text = cause, text


class Child:
    """A Python interpreter of its own, isolated and limited, that calls functions of one module.

    Args:
        module: its import comes before the limit on memory, which is over what the import took
        memory: bytes that the calls may take
        file_bytes: bytes that a file may have which it writes
        cpu_seconds: of the processor, over all calls; None for no limit
    """

    def __init__(
        self, module: str, memory: int, file_bytes: int = 0, cpu_seconds: int | None = None
    ) -> None:
        paths = [path for path in sys.path if path and Path(path).is_absolute()]
        paths.append(str(Path(__file__).parents[2]))
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        # Arrow's own allocators reserve address space that the limit would count
        environment = {**os.environ, **one_thread, "ARROW_DEFAULT_MEMORY_POOL": "system"}
        given = json.dumps([paths, module, memory, file_bytes, cpu_seconds])
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        command = [sys.executable, "-I", "-c", _START, given]
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=nothing, env=environment
        )
        self._tasks = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)

    @property
    def alive(self) -> bool:
        """Whether it can be called again."""
        return self._process.poll() is None

    def wait_until_ready(self, seconds: float) -> None:
        """Wait until the module is imported; raises ``ChildFailure`` as :meth:`call`."""
        self.call("", seconds=seconds)

    def call(
        self, function: str, *arguments: Any, seconds: float, content: bytes | None = None
    ) -> tuple[Any, bytes]:
        """Call a function of the module; gives the facts and the bytes that it returned.

        A function that returns None gives None and no bytes. What the process answers is as little
        to be trusted as what it reads. JSON must hold the arguments and the facts; ``content`` is a
        further argument, as bytes. Raises ``ChildFailure``: it raised, ended, or took more than
        ``seconds``, when it is killed.
        """
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        clock = threading.Timer(seconds, end)
        clock.daemon = True
        clock.start()
        head = json.dumps([function, arguments, content is not None]).encode()
        try:
            _send(self._tasks, head, content or b"")
            answer, data = _receive(self._answers, _MOST_ANSWER)
            cause, found = json.loads(answer)
        except (OSError, EOFError, ValueError) as error:
            failure: Cause = "time" if late.is_set() else "crash"
            if not isinstance(error, ValueError):
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(1)  # so that it can be said how it ended
            self._process.kill()
            status = self._process.wait()
            text = f"signal {-status}" if status < 0 else f"status {status}"
            raise ChildFailure(failure, text) from error
        finally:
            clock.cancel()
            clock.join()
        if late.is_set():  # it was killed right behind its answer
            raise ChildFailure("time", "")
        if cause is not None:
            raise ChildFailure(cause, " ".join(str(found).split()))
        return found, data

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._tasks, self._answers):
            with suppress(OSError):  # what was never sent
                pipe.close()


def run_isolated(module: str, source: Path, *arguments: Any) -> None:
    """Call ``read(source, *arguments)`` of a module in a child process made for this one file.

    The function raises ``InputError``, without the file's name, for what it does not want to read.
    It leaves its answer in a folder; that is as little to be trusted as ``source``.

    Raises ``InputError``: the child raised, crashed, or took more time or memory than it may.
    """
    seconds = _SPARE_SECONDS + source.stat().st_size // 20_000_000
    memory = (64 << 20) + 2 * limit("BYTES")  # sparse and dense, or packed and unpacked
    child = Child(module, memory, file_bytes=memory, cpu_seconds=seconds)
    try:
        child.call("read", str(source.absolute()), *arguments, seconds=2 * seconds)
    except ChildFailure as failure:
        problems: dict[Cause, str] = {
            "refused": f": {failure.text[:300]}",
            "memory": f": to read it takes {over('BYTES')}",
            "time": f": reading took over {2 * seconds} s: it is damaged",
            "crash": f": its parser crashed ({failure.text}): the file is damaged or hostile",
            "error": f" cannot be read safely ({failure.text[:220]}): save it again",
        }
        raise InputError(f"{source}{problems[failure.cause]}") from failure
    finally:
        child.end()


def work(module: str, memory: int, file_bytes: int, cpu_seconds: int | None) -> None:
    """Answer calls until the pipe is closed: what a child process does; see :class:`Child`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    tasks, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):  # a parser that prints shall not disturb
        os.dup2(nothing, standard)
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_CPU", cpu_seconds)
    loaded = importlib.import_module(module)
    _limit("RLIMIT_FSIZE", file_bytes)
    _limit("RLIMIT_AS", memory, beyond_used=True)
    while True:
        try:
            head, content = _receive(tasks)
        except EOFError:
            return
        name, arguments, with_content = json.loads(head)
        try:
            if with_content:
                arguments.append(content)
            found = getattr(loaded, name)(*arguments) if name else None
            facts, data = found if found is not None else (None, b"")
            _send(answers, json.dumps([None, facts]).encode(), data)
        except Exception as error:
            cause = _cause_of(error)
            kind = f"{type(error).__name__}: " if cause == "error" else ""
            text = (kind + reason_of(error)).encode("utf-8", "replace").decode()
            _send(answers, json.dumps([cause, text]).encode(), b"")


def _cause_of(error: Exception) -> Cause:
    chain: list[BaseException] = [error]
    while (behind := chain[-1].__cause__) is not None and behind not in chain:
        chain.append(behind)
    for one in chain:
        if isinstance(one, MemoryError) or (isinstance(one, OSError) and one.errno == errno.EFBIG):
            return "memory"
    return "refused" if isinstance(error, InputError) else "error"


def _limit(name: str, value: int | None, beyond_used: bool = False) -> None:
    """Set a limit of this process, where the system has such limits (Windows has none)."""
    try:
        import resource
    except ImportError:
        return
    statm = Path("/proc/self/statm")
    if value is None or not hasattr(resource, name) or (beyond_used and not statm.exists()):
        return
    if beyond_used:
        value += int(statm.read_text().split()[0]) * resource.getpagesize()
    which = getattr(resource, name)
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _send(pipe: IO[bytes], head: bytes, data: bytes) -> None:
    """Write a message: the lengths of its two parts, then these."""
    pipe.write(_LENGTHS.pack(len(head), len(data)) + head)
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes], most: int | None = None) -> tuple[bytes, bytes]:
    """Read a message; raises EOFError if nobody writes, ValueError above ``most`` bytes."""
    sizes = _LENGTHS.unpack(_exactly(pipe, _LENGTHS.size))
    if most is not None and sum(sizes) > most:
        raise ValueError("the answer is too long")
    return _exactly(pipe, sizes[0]), _exactly(pipe, sizes[1])


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data
