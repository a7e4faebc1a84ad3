"""Names that differ in spelling alone: Unicode's two forms of letters, letter case, backslashes."""

import os
import unicodedata
from pathlib import Path


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC): Macs write names decomposed (NFD)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def printable(name: object) -> str:
    """A name on one line of a terminal: control characters as ``\\x0a``."""
    return "".join(f"\\x{ord(one):02x}" if one < " " else one for one in str(name))


def listing(folder: Path) -> set[str]:
    """Names in a folder; none where it cannot be read."""
    try:
        return set(os.listdir(folder))  # noqa: PTH208 - names are compared
    except (OSError, ValueError):  # ValueError: a name that no folder can have
        return set()


def file_called(path: Path) -> Path:
    """The file of this name, or the only one of that name in another Unicode form, or the path."""
    if str(path).isascii() or os.path.lexists(path) or path.parent == path:
        return path
    folder = file_called(path.parent)
    alike = [name for name in listing(folder) if composed(name) == composed(path.name)]
    return folder / (alike[0] if len(alike) == 1 else path.name)


def spelling(path: Path) -> str:
    """Why an absent file may be there under another spelling, and what mends it, or nothing."""
    if "\\" in path.name and Path(str(path).replace("\\", "/")).exists():
        return "the list writes \\ between folders; write /"
    if file_called(path).exists():
        return "the disk has the name in another Unicode form (NFC or NFD); write it as there"
    if _any_case(path):
        return "the disk has the name in other letter case; write it as the disk does"
    return ""


def _any_case(path: Path) -> bool:
    """Whether there is a file whose path differs in letter case."""
    if path.exists():
        return True
    if path.parent == path or not _any_case(path.parent):
        return False
    wanted = composed(path.name).casefold()
    return any(composed(name).casefold() == wanted for name in listing(path.parent))
