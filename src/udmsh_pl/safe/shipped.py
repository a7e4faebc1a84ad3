"""Files of the project that come with the package: plans of ``experiments/`` and ``CITATION.cff``.

A wheel holds copies inside the package; a clone has them at its root, where they are edited.
"""

import difflib
from pathlib import Path

from udmsh_pl.errors import InputError

PACKAGE = Path(__file__).parents[1]


def shipped(name: str, package: Path = PACKAGE) -> Path:
    """Path of a file or folder of the project, by its name in the clone; it may be absent."""
    inside = package / name
    return inside if inside.exists() else package.parents[1] / name


def plans(package: Path = PACKAGE) -> dict[str, Path]:
    """The plans that come with the package, by name: ``sample``, ``cifar10``, ..."""
    return {path.stem: path for path in sorted(shipped("experiments", package).glob("*.yaml"))}


def plan_file(given: str) -> Path:
    """The yaml that a user means: a path, or the name of a plan that comes with the package.

    Raises ``InputError``: there is neither (it names a near one), or the file is no UTF-8 text.
    """
    path, known = Path(given), plans()
    if path.is_file():
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            mend = "save it as UTF-8"
            raise InputError(f"{path} is not UTF-8 text ({error.reason}); {mend}") from error
        return path
    if given in known:
        return known[given]
    near = difflib.get_close_matches(path.stem, known, n=1)
    mend = f"the plans are {', '.join(known)}, or give a path"
    mend = f"did you mean {near[0]}?" if near else mend
    raise InputError(f"{given} is neither a file nor a plan; {mend}")
