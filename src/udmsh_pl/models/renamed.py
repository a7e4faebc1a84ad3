"""Old names of options, and old options, which are taken for one release."""

import warnings
from collections.abc import Mapping
from typing import Any

RENAMED = {"trunk_learning_rate": "backbone_learning_rate"}
WITHOUT_EFFECT = ("gather_batch",)


def with_new_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same options under their new names; warns of each old one.

    An old name whose value is None counts as not given, and one that is given wins over the new
    name's value.
    """
    found = {name: value for name, value in options.items() if name not in RENAMED}
    for old, new in RENAMED.items():
        if options.get(old) is not None:
            warnings.warn(
                f"{old} is now called {new}; the old name goes with the next release",
                FutureWarning,
                stacklevel=3,
            )
            found[new] = options[old]
    return found
