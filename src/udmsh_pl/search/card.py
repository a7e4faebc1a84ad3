"""The model card of an encoder, for people."""

from udmsh_pl.search.spec import EncoderSpec


def card(spec: EncoderSpec, graph: str) -> str:
    """What a person who finds the folder, or the page on a hub, must know.

    Args:
        spec: the encoder's
        graph: the file that turns pixels into codes
    """
    output = f"`codes` uint8 [B, {spec.code_bytes}]: {spec.bits} bits, the least significant first"
    if spec.dims:
        output += (
            f"; `features` int8 [B, {spec.dims}]: compare by cosine to order the nearest codes"
        )
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
