"""Encoders on the Hugging Face hub: two files, JSON and safetensors, and a card for people.

What comes from there is a stranger's: only those two files are fetched, nothing in them is run, and
the graph for OpenVINO is made here.
"""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from udmsh_pl.errors import InputError
from udmsh_pl.safe.files import sha256_file
from udmsh_pl.safe.untrusted import check_file, reason_of
from udmsh_pl.search.spec import FILE, WEIGHTS, EncoderSpec, read_spec

HUB_ID = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}")


def is_hub_id(source: str) -> bool:
    """Whether a name that is no file may be ``owner/name`` of the hub."""
    return bool(HUB_ID.fullmatch(source)) and not source.endswith((".ckpt", ".pt"))


def cache_folder() -> Path:
    """The user's own cache, which nobody else writes to: ``UDMSH_CACHE``, or below the home."""
    return Path(os.environ.get("UDMSH_CACHE", "~/.cache/udmsh-pl")).expanduser()


def fetch(name: str, revision: str | None, token: str | None) -> Path:
    """The folder in the user's cache of the encoder ``owner/name``, with a graph of our own making.

    ``revision`` is a branch, tag or commit; without a token, that of ``hf auth login`` is taken.

    Raises ``InputError``: no such encoder, no connection, no permission, or files that are damaged.
    """
    hub = _hub()
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        files = [
            Path(hub.hf_hub_download(name, file, revision=revision, token=token, endpoint=endpoint))
            for file in (FILE, WEIGHTS)
        ]
    except Exception as error:  # it has an error of its own for each way to fail, some of httpx
        problem = f"cannot be fetched from the hub ({type(error).__name__}: {reason_of(error)})"
        raise InputError(f"{name} {problem}; give owner/name of an encoder, or a path") from error
    for file in files:
        check_file(file, "encoder")
    from udmsh_pl.search.graph import read_network, write_network

    fetched = files[0].parent
    folder = cache_folder() / "encoders" / f"hub-{sha256_file(files[0])[:16]}"
    if not (folder / FILE).is_file():
        spec = read_spec(fetched)
        write_network(read_network(fetched, spec), replace(spec, files={}), folder)
    return folder


def push(folder: Path, name: str, spec: EncoderSpec, private: bool, token: str | None) -> str:
    """Upload an encoder's two files and its card to ``owner/name``, which is made where it is
    missing; gives the address of the commit. Raises InputError without connection or permission.
    """
    hub = _hub()
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    card = model_card(spec, WEIGHTS).encode()
    contents = [(FILE, folder / FILE), (WEIGHTS, folder / WEIGHTS), ("README.md", card)]
    added = [hub.CommitOperationAdd(where, what) for where, what in contents]
    try:
        api.create_repo(name, private=private, exist_ok=True)
        done = api.create_commit(name, added, commit_message="An image hash")
    except Exception as error:  # as above
        problem = f"cannot be written to the hub ({type(error).__name__}: {reason_of(error)})"
        mend = "log in with `hf auth login`, and give owner/name"
        raise InputError(f"{name} {problem}; {mend}") from error
    return str(done.commit_url)


def model_card(spec: EncoderSpec, graph: str) -> str:
    """What a finder of the folder or page must know; ``graph`` is the file for programs."""
    output = f"`codes` uint8 [B, {spec.code_bytes}]: {spec.bits} bits, the least significant first"
    if spec.dims:
        output += f"; `features` int8 [B, {spec.dims}]: their cosine orders the nearest codes"
    sums = "\n".join(f"- `{name}` SHA-256 `{sha}`" for name, sha in spec.files.items())
    return f"""---
library_name: udmsh-pl
pipeline_tag: image-feature-extraction
tags: [image-hashing, image-retrieval, unsupervised]
---
# An image hash of {spec.bits} bits

{spec.note}

- Input of `{graph}`: `pixels` uint8 [B, 3, {spec.image_size}, {spec.image_size}], RGB, the whole
  picture resized to a square (bicubic, antialiased), the right way up. Mean and deviation are
  inside.
- Output: {output}. Two pictures are the more alike, the fewer bits differ.
- Backbone `{spec.backbone}`; head `{spec.method}`. Licence
  and data are those of what it was trained from.
- Learned without labels, so it inherits what its backbone and its pictures hold; look at
  results before you rely on them.

{sums}

Made by udmsh-pl: `udmsh_pl.HashEncoder.load(...)` opens this folder, or `owner/name` on the hub.
"""


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError("the hub needs the extra: pip install 'udmsh-pl[hub]'") from error
    return huggingface_hub
