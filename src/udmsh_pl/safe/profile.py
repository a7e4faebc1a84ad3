"""Where the time of a command goes: seconds of its parts, for ``--profile``.

Parts add up to the whole: a part is a block under ``with clock(name)`` less the parts inside it.
The command's own thread counts; work of other threads, such as decoding, counts while it waits.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple, TypeVar

from udmsh_pl.safe.files import write_text

FILE = "profile.txt"
T = TypeVar("T")


class Seconds(NamedTuple):
    """Of a clock on the wall, and of processors in all threads of this process."""

    wall: float = 0.0
    processor: float = 0.0

    @classmethod
    def now(cls) -> "Seconds":
        """Both clocks."""
        return cls(time.perf_counter(), time.process_time())

    def plus(self, other: "Seconds", sign: int = 1) -> "Seconds":
        """The sum, or with ``sign`` -1 the difference."""
        return Seconds(self.wall + sign * other.wall, self.processor + sign * other.processor)


class Profile:
    """Seconds of a command and of its parts so far."""

    def __init__(self) -> None:
        self.started = Seconds(time.perf_counter(), 0.0)  # Python's own start took no part
        self.parts: dict[str, Seconds] = {}
        self._inside: list[Seconds] = []  # of each open part, what the parts inside it took

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Count the block as ``name``, but for the parts inside it."""
        start = Seconds.now()
        self._inside.append(Seconds())
        try:
            yield
        finally:
            spent = Seconds.now().plus(start, -1)
            own = spent.plus(self._inside.pop(), -1)
            self.parts[name] = self.parts.get(name, Seconds()).plus(own)
            if self._inside:
                self._inside[-1] = self._inside[-1].plus(spent)

    def text(self) -> str:
        """A line a part, in the order in which they first ended."""
        whole = rest = Seconds.now().plus(self.started, -1)
        for spent in self.parts.values():
            rest = rest.plus(spent, -1)
        lines = [f"{'part':12} {'seconds':>9} {'share':>6} {'processor':>10}"]
        for name, spent in (*self.parts.items(), ("other", rest), ("whole", whole)):
            share = spent.wall / whole.wall
            lines.append(f"{name:12} {spent.wall:9.2f} {share:6.1%} {spent.processor:10.2f}")
        return "\n".join(lines)


_CURRENT: ContextVar[Profile | None] = ContextVar("profile", default=None)


@contextmanager
def profiled() -> Iterator[Profile]:
    """Count the parts of the block."""
    profile = Profile()
    token = _CURRENT.set(profile)
    try:
        yield profile
    finally:
        _CURRENT.reset(token)


@contextmanager
def clock(name: str) -> Iterator[None]:
    """Count the block as a part of the command inside ``profiled``; other threads count nothing."""
    profile = _CURRENT.get()
    with profile.clock(name) if profile else nullcontext():
        yield


def wait_for(name: str, items: Iterable[T]) -> Iterator[T]:
    """The same items; the time until each is there counts as ``name``."""
    rest, end = iter(items), object()
    while True:
        with clock(name):
            item = next(rest, end)
        if item is end:
            return
        yield item  # type: ignore[misc]


def write_profile(folder: Path) -> str:
    """Write :data:`FILE` of the running command to ``folder``; gives its text."""
    text = (_CURRENT.get() or Profile()).text()
    write_text(folder / FILE, text + "\n")
    return text
