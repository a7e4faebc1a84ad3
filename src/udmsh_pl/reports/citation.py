"""How to cite the software and the paper that it reproduces, out of ``CITATION.cff``."""

from typing import Any

import yaml

from udmsh_pl import __version__
from udmsh_pl.safe.shipped import shipped


def citations() -> list[str]:
    """BibTeX of the paper and of the software; nothing when the file does not come with them."""
    try:
        found = yaml.safe_load(shipped("CITATION.cff").read_text(encoding="utf-8"))
    except OSError:
        return []
    note = f"version {__version__}"
    software = {"title": found["title"], "author": _authors(found), "note": note}
    entries = [_article(one) for one in found.get("references", ()) if one["type"] == "article"]
    return [*entries, _entry("software", found["title"], software)]


def _article(reference: dict[str, Any]) -> str:
    found = reference | {"author": _authors(reference), "number": reference["issue"]}
    found["pages"] = f"{reference['start']}--{reference['end']}"
    names = ("author", "title", "journal", "volume", "number", "pages", "year", "doi")
    first = reference["authors"][0]["family-names"].lower()
    return _entry("article", f"{first}{reference['year']}", {name: found[name] for name in names})


def _authors(entry: dict[str, Any]) -> str:
    names = (
        one.get("name")
        or ", ".join(one[part] for part in ("family-names", "given-names") if part in one)
        for one in entry["authors"]
    )
    return " and ".join(names)


def _entry(kind: str, key: str, fields: dict[str, Any]) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])
