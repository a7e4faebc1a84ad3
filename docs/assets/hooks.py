"""Hooks of MkDocs: the site loads nothing from elsewhere."""

from typing import Any

SHIM = "https://unpkg.com/iframe-worker/shim"


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Take our own worker for pages on a disk, where the theme names one in the network."""
    up = "../" * page.url.count("/")
    return output.replace(SHIM, f"{up}assets/file-worker.js")


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """The same for the page of unknown addresses."""
    return output.replace(SHIM, "assets/file-worker.js")
