"""Measures an exported model beside lmf: python docs/measure_onnx.py [MODEL]

It enlarges a 160x90 picture by 4 with one thread and with all, and prints the size of the files and the shortest of
five times.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

import lmf
from lmf.export import save


def main(name: str = "lm_liif_edsr") -> None:
    model, image = lmf.load(name), torch.rand(1, 3, 90, 160)
    with tempfile.TemporaryDirectory() as folder:
        (file,) = save(model, Path(folder, "model.onnx"), half=True)
        print(f"{file.stat().st_size / 2**20:.1f} MiB")
        for threads in dict.fromkeys((1, len(os.sched_getaffinity(0)))):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            inputs = {"image": image.numpy(), "size": np.array([360, 640])}
            torch.set_num_threads(threads)
            ours = shortest(lambda: model.upscale(image, scale=4))
            theirs = shortest(lambda session=session, inputs=inputs: session.run(None, inputs))
            print(f"{threads} threads: lmf {ours:.3f} s, onnxruntime {theirs:.3f} s")


def shortest(function: Callable[[], object]) -> float:
    """Return the shortest of five times of ``function`` in seconds, after a first call."""
    function()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main(*sys.argv[1:])
