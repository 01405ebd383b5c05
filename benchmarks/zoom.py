"""Measures the zoom page: the time of frames while a view is moved, and the memory for a large photograph.

    python benchmarks/zoom.py                  frames of 1024x640 at x4, x8, x16, and the memory for 12 megapixels
    python benchmarks/zoom.py --whole          the same, with all features of the photograph computed: minutes

A frame is timed from the request to its last byte, over HTTP on this machine, pixels sent as they are. "whole" frames
hold all pixels of the view, as after zooming. "dragged" frames hold those that the last one did not show, which is what
the page asks for.
"""

import argparse
import http.client
import json
import statistics
import threading
import time

import numpy as np
import torch
import uvicorn
from PIL import Image

from lmf import io
from lmf.memory import process_peak, reset_process_peak
from lmf.web import Picture, Settings, create_app, methods
from lmf.web.run import listen

STEP = 24  # output pixels that each frame moves on


class Page:
    """Asks the server for frames, as the page does."""

    def __init__(self, port, method):
        self.connection, self.method, self.number = (
            http.client.HTTPConnection("127.0.0.1", port, timeout=600),
            method,
            0,
        )
        self.session = json.loads(self.post("/api/session", {})[1])["session"]

    def post(self, path, content):
        headers = {"content-type": "application/json", "lmf-session": getattr(self, "session", "")}
        self.connection.request("POST", path, json.dumps(content), headers)
        answer = self.connection.getresponse()
        return answer, answer.read()

    def frame(self, scale, top, left, size, held=None):
        """Return the seconds until a view has arrived, and those of rendering it, once its features are there."""
        while True:
            self.number += 1
            view = {"top": top, "bottom": top + size[0], "left": left, "right": left + size[1]}
            asked = {"part": "a", "number": self.number, "method": self.method, "scale": scale, **view}
            asked |= {"raw": True, "held": held}
            start = time.perf_counter()
            answer, body = self.post("/api/frame", asked)
            if answer.status == 200:
                facts = json.loads(answer.headers["lmf-frame"])
                return time.perf_counter() - start, facts["ms"] / 1000, facts["encoded"]
            if answer.status != 202:
                raise SystemExit(f"status {answer.status}: {body.decode()}")


def photograph(height, width):
    """A picture with structure at every size, the same in every run."""
    rng, out = np.random.default_rng(0), np.zeros((height, width, 3), dtype=np.float32)
    for step in (2, 8, 32, 128):
        noise = rng.random((height // step + 1, width // step + 1, 3), dtype=np.float32)
        bands = [Image.fromarray(noise[..., i]).resize((width, height), Image.Resampling.BICUBIC) for i in range(3)]
        out += np.stack(bands, axis=-1)
    return (out / 4 * 255).clip(0, 255).astype(np.uint8)


def serve(pixels, model):
    """Start a server that shows ``pixels``; return a `Page` of it and a function that stops it."""
    picture = Picture("photograph", io.Picture(pixels, io.Metadata()), "first")
    known = methods([model], torch.device("cpu"))
    first = next(iter(known.values()))
    first.warm_up()
    listener = listen("127.0.0.1", 0)
    app = create_app(known, picture, Settings())
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)

    def stop():
        server.should_exit = True
        thread.join()

    return Page(listener.getsockname()[1], first.name), stop


def frames(options):
    """Print the times of frames while a view is moved."""
    height, width = options.view
    sides = [n // 4 + options.frames * STEP // 4 + 64 for n in (height, width)]
    page, stop = serve(photograph(*sides), options.model)
    print(f"view {width}x{height}, {torch.get_num_threads()} threads; milliseconds")
    print(f"{'scale':>6} {'frames':>8} {'first':>8} {'rendered':>9} {'median':>8} {'90 %':>8} {'frames/s':>9}")
    page.frame(0.5, 0, 0, sides)  # everything is encoded
    for scale in options.scales:
        top, left = (
            max(0, round((n * scale - visible - options.frames * STEP) / 2))
            for n, visible in zip(sides, (height, width), strict=True)
        )
        for kind in ("whole", "dragged"):
            results, held = [], None
            for i in range(options.frames + 1):
                at = left + i * STEP
                results.append(page.frame(scale, top, at, (height, width), held))
                if kind == "dragged":
                    held = {"top": top, "bottom": top + height, "left": at, "right": at + width}
            first, *times = results
            arrived = sorted(1000 * seconds for seconds, _, _ in times)
            rendered = statistics.median(1000 * seconds for _, seconds, _ in times)
            median, late = statistics.median(arrived), arrived[int(0.9 * (len(arrived) - 1))]
            numbers = f"{rendered:>9.1f} {median:>8.1f} {late:>8.1f} {1000 / median:>9.1f}"
            print(f"{scale:>6g} {kind:>8} {1000 * first[0]:>8.1f} {numbers}")
    stop()


def memory(options):
    """Print the peak memory while a large photograph is opened and looked at."""
    width = round((options.megapixels * 1e6 * 4 / 3) ** 0.5)
    pixels = photograph(width * 3 // 4, width)
    before = reset_process_peak() or 0
    page, stop = serve(pixels, options.model)
    opened = process_peak() or 0
    print(f"{width}x{width * 3 // 4} photograph; MiB beyond the {before >> 20} before it")
    print(f"opened: {(opened - before) >> 20}")
    start, places = time.perf_counter(), 6
    for i in range(places):
        place = [round((n * 4 - v) * i / (places - 1)) for n, v in zip(pixels.shape[:2], options.view, strict=True)]
        encoded = page.frame(4, *place, options.view)[2]
    print(f"after {places} views at x4: {((process_peak() or 0) - before) >> 20}")
    while options.whole and encoded < 1:
        time.sleep(5)
        encoded = page.frame(4, 0, 0, options.view)[2]
    if options.whole:
        print(f"all features computed, {time.perf_counter() - start:.0f} s: {((process_peak() or 0) - before) >> 20}")
    stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lm_liif_edsr")
    parser.add_argument("--view", type=int, nargs=2, default=(640, 1024), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--scales", type=float, nargs="+", default=(4, 8, 16))
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--whole", action="store_true", help="compute all features of the photograph")
    options = parser.parse_args()
    frames(options)
    memory(options)


if __name__ == "__main__":
    main()
