"""Enlarges a picture with an exported model: python docs/enlarge_onnx.py model.onnx photo.jpg 3.7 large.png

It needs onnxruntime, numpy and Pillow, and no PyTorch.
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image


def main(model: str, source: str, scale: str, target: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    photo = Image.open(source).convert("RGB")
    size = np.array([max(1, round(n * float(scale))) for n in (photo.height, photo.width)], np.int64)
    image = np.asarray(photo, np.float32).transpose(2, 0, 1)[None] / 255  # (1, 3, h, w)
    (picture,) = session.run(["picture"], {"image": image, "size": size})  # (1, 3, H, W) in [0, 1]
    pixels = (picture[0].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
