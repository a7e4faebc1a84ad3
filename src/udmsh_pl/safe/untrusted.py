"""Strangers' files: limits that fit a laptop, and the checks that come before any parser.

Each limit is an environment variable, so that worker and child processes know it too:
``UDMSH_MAX_PIXELS`` (of a picture, 64 million), ``UDMSH_MAX_BYTES`` (of a file, or what it unpacks
to: 512 MiB) and ``UDMSH_MAX_ROWS`` (of a list or manifest, 2 million). All numbers are *ours*.
"""

import os
import stat
import zipfile
from pathlib import Path
from typing import Literal

from udmsh_pl.errors import InputError

Limited = Literal["PIXELS", "BYTES", "ROWS"]
_DEFAULTS: dict[Limited, int] = {"PIXELS": 64_000_000, "BYTES": 512 << 20, "ROWS": 2_000_000}
_BLOCK = 1 << 20
_FOLDER = 0x10  # of a member's attributes; torch gives it memory that nobody has written to


def limit(of: Limited) -> int:
    """The limit on pixels, bytes or rows.

    Raises ``InputError``: the environment variable is no whole number above 0.
    """
    name = f"UDMSH_MAX_{of}"
    given = os.environ.get(name, "").replace("_", "")
    if not given:
        return _DEFAULTS[of]
    if not (given.isascii() and given.isdecimal()) or int(given) < 1:
        raise InputError(f"{name} is {given!r}; give a whole number above 0, or unset it")
    return int(given)


def over(of: Limited) -> str:
    """What an error says behind the thing that is too large: the limit, and how to raise it."""
    return f"more than {limit(of):,} {of.lower()}; set UDMSH_MAX_{of} higher if you trust it"


def file_size(path: Path, most: int | None = None) -> int:
    """Bytes of a regular file; pipes and devices, whose opening may never end, are refused.

    Raises:
        OSError: no such file, or it may not be looked at.
        ValueError: not a regular file, more bytes than ``most``, or a name that no file can have.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        kind = _KINDS.get(stat.S_IFMT(facts.st_mode), "something else")
        raise ValueError(f"it is {kind}, not a regular file")
    if most is not None and facts.st_size > most:
        raise ValueError(f"{facts.st_size:,} bytes, {over('BYTES')}")
    return facts.st_size


def check_file(path: Path, what: str) -> int:
    """:func:`file_size` with the limit on bytes; raises ``InputError``: cannot read this {what}."""
    try:
        return file_size(path, limit("BYTES"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path!s}: cannot read this {what} ({reason_of(error)})") from error


def read_file(path: Path, what: str) -> bytes:
    """All bytes of a regular file within the limit; raises as :func:`check_file`."""
    try:
        file_size(path, limit("BYTES"))
        with path.open("rb") as stream:
            data = stream.read(limit("BYTES") + 1)  # it may have grown meanwhile
        if len(data) > limit("BYTES"):
            raise ValueError(over("BYTES"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read this {what} ({reason_of(error)})") from error
    return data


def exists(path: Path) -> bool:
    """Whether there is something under a path; a name that no file can have names nothing."""
    try:
        path.stat()
    except (OSError, ValueError):
        return False
    return True


def check_archive(path: Path, most: int | None = None) -> None:
    """Check every member of a zip file (``.npz``, ``.pt``, ``.ckpt``) against its CRC-32.

    ``torch.load`` does not: one flipped bit of a checkpoint is a weight that is wrong without a
    word. NumPy does so only where an array fills its member.

    Raises ``InputError``: not a zip file, a member is damaged or stands twice, or it unpacks to
    more than ``most`` bytes.
    """
    damaged = "it is cut short or altered; copy it again"
    try:
        file_size(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if most is not None and sum(member.file_size for member in members) > most:
                raise InputError(f"{path}: unpacks to {over('BYTES')}")
            if len({member.filename for member in members}) < len(members):
                raise InputError(f"{path}: a member stands twice in it; {damaged}")
            for member in members:
                if member.external_attr & _FOLDER and not member.is_dir():
                    raise InputError(f"{path}: a member is marked as a folder; {damaged}")
                with archive.open(member) as stream:
                    while stream.read(_BLOCK):
                        pass
    except InputError:
        raise
    except zipfile.BadZipFile as error:
        known = "not a zip file" if "not a zip" in str(error) else "its checksum is another"
        raise InputError(f"{path}: {known}; {damaged}") from error
    except Exception as error:  # zlib, struct, encodings: what damage makes of them
        raise InputError(f"{path}: cannot be unpacked ({reason_of(error)}); {damaged}") from error


def reason_of(error: BaseException) -> str:
    """An exception in a few words, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"} | (
    dict.fromkeys((stat.S_IFCHR, stat.S_IFBLK), "a device")
)
