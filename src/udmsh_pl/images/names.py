"""Names of pictures in lists and manifests: one spelling a file, and none that leads outside."""

import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

_ODD = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")  # a part that is empty, . or ..


def normal(name: str) -> str:
    """The one spelling of a name: ``./a//b/../c.jpg`` is ``a/c.jpg``."""
    if not _ODD.search(name):
        return name
    return posixpath.normpath("/" + name.lstrip("/") if name.startswith("/") else name)


def inside(name: str, root: Path | None, allow_outside: bool) -> str:
    """The normal spelling of a name from a list or manifest, relative to ``root`` if it lies there.

    Links are followed as any program follows them; who can make links in ``root`` can read there.

    Args:
        name: a path with forward slashes.
        root: folder that names are relative to; None for the working directory.
        allow_outside: let absolute paths and those that begin with ``..`` pass.

    Raises:
        ValueError: no name of a file, or it leads outside; the message says what mends it.
    """
    spelled = normal(name)
    if "\0" in name or spelled in ("", ".", "..", "/"):
        raise ValueError(f"{name!r} is no name of a file; give a path")
    absolute = spelled.startswith("/") or (os.name == "nt" and Path(spelled).is_absolute())
    if absolute:
        base = Path(root or ".").absolute().as_posix()
        base = normal(base).rstrip("/") + "/"
        if spelled.startswith(base):
            return spelled.removeprefix(base)
    if (absolute or spelled.startswith("../")) and not allow_outside:
        raise ValueError(
            f"{name!r} leads out of {root or 'the working directory'}; give paths below "
            "--data.root, or let such paths pass with --data.allow_outside true"
        )
    return spelled


def twice(names: Sequence[str]) -> str | None:
    """The first name whose file an earlier name stands for already, or None."""
    seen: set[str] = set()
    for name in names:
        spelled = normal(name)
        if spelled in seen:
            return name
        seen.add(spelled)
    return None
