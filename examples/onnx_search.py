"""Search with an export, without torch and without udmsh-pl: pip install onnxruntime pillow numpy.

udmsh export my.index --format onnx --out hash
python examples/onnx_search.py hash/encoder.onnx PICTURES query.jpg
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
side = session.get_inputs()[0].shape[2]


def encode(path):
    image = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return session.run(["codes"], {"pixels": np.asarray(image).transpose(2, 0, 1)[None]})[0]


paths = [path for path in sorted(Path(sys.argv[2]).rglob("*")) if path.suffix in (".jpg", ".png")]
codes = np.concatenate([encode(path) for path in paths])
distances = np.unpackbits(codes ^ encode(sys.argv[3]), axis=1).sum(1)
for row in np.argsort(distances, kind="stable")[:5]:
    print(distances[row], paths[row])
