"""Files of the project that come with the package: plans of ``experiments/`` and ``CITATION.cff``.

A wheel holds copies of them inside the package; a clone has them at its root, which alone is
edited.
"""

from pathlib import Path

PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """Path of a file or folder of the project, by its name in the clone; it may be absent."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parents[1] / name


def plans() -> dict[str, Path]:
    """The plans that come with the package, by name: ``sample``, ``cifar10``, ..."""
    return {path.stem: path for path in sorted(shipped("experiments").glob("*.yaml"))}
