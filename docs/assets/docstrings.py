"""Docstrings as the site shows them: examples are code, and references of Sphinx are names."""

import re
from typing import Any

from griffe import Extension

ROLE = re.compile(r":(?:func|class|mod|meth|data|attr):`~?([^`]*)`")


class Docstrings(Extension):
    """Rewrites each docstring as Google's style of sections has it."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """An ``Example:`` becomes the section whose ``>>>`` are code."""
        if obj.docstring:
            text = ROLE.sub(r"``\1``", obj.docstring.value)
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", text)
