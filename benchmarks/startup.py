"""Measures `lmf upscale` of a small picture, from the start of the process to the file.

    python benchmarks/startup.py               where the milliseconds go, and the ratio to `import torch`
    python benchmarks/startup.py --runs 9      the same with more runs

Each stage is the time inside a function, without that of the stages it calls. The median of all runs is printed. The
ratio compares whole processes that run in turns, so that a slower moment of the machine affects both alike.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

STAGES = {  # by stage, the functions that it consists of
    "options": ["lmf.app.cli:upscale_parser", "lmf.inference.planning:plan"],
    "load weights": ["lmf:load"],
    "load kernel": ["lmf.kernels.cpu:library"],
    "decode": ["lmf.io:read_header", "lmf.io.png:decode"],
    "encode": ["lmf.model:SRModel.features"],
    "latent": ["lmf.model:Enlargement.latent"],
    "render": ["lmf.model:Enlargement.render"],
    "write": ["lmf.io:write_pages"],
}


class Clock:
    """Sums the time of nested stages, each without the stages inside it."""

    def __init__(self, start):
        self.seconds, self.open, self.last = defaultdict(float), ["start of Python"], start

    def switch(self):
        now = time.time()
        self.seconds[self.open[-1]] += now - self.last
        self.last = now

    def enter(self, stage):
        self.switch()
        self.open.append(stage)

    def leave(self):
        self.switch()
        self.open.pop()

    def watch(self, place, stage):
        module, _, name = place.partition(":")
        owner = importlib.import_module(module)
        *path, name = name.split(".")
        for part in path:
            owner = getattr(owner, part)
        function = getattr(owner, name)

        def watched(*args, **kwargs):
            self.enter(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, name, watched)


def profile(start, arguments):
    """Run `lmf upscale` in this process and print the seconds of its stages as JSON."""
    clock = Clock(start)
    clock.enter("import torch")
    import torch  # noqa: F401

    clock.leave()
    clock.enter("import lmf")
    cli = importlib.import_module("lmf.app.cli")
    clock.leave()
    clock.open[0] = "other"
    for stage, places in STAGES.items():
        for place in places:
            clock.watch(place, stage)
    cli.main(["upscale", *arguments])
    clock.switch()
    print(json.dumps(clock.seconds))


def timed(command):
    """Return the output of a process and its time."""
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--profile", type=float, metavar="START", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.profile is not None:
        profile(options.profile, options.arguments)
        return
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.png", Path(folder) / "large.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(small)
        arguments = [str(small), "--scale=4", "--overwrite", f"--output={large}"]
        torch, lmf, stages = [], [], []
        for _ in range(options.runs + 1):
            torch.append(timed([sys.executable, "-c", "import torch"])[1])
            lmf.append(timed([sys.executable, "-m", "lmf", "upscale", *arguments])[1])
            own = [sys.executable, __file__, f"--profile={time.time()}", "--", *arguments]
            output, seconds = timed(own)
            stages.append(json.loads(output))
            stages[-1]["end of Python"] = seconds - sum(stages[-1].values())
    median = {stage: statistics.median(run.get(stage, 0) for run in stages[1:]) for stage in stages[0]}
    for stage, seconds in median.items():
        print(f"{stage:16}{1000 * seconds:7.1f} ms")
    whole, bare = statistics.median(lmf[1:]), statistics.median(torch[1:])
    print(f"lmf upscale {1000 * whole:.0f} ms, import torch {1000 * bare:.0f} ms, ratio {whole / bare:.2f}")


if __name__ == "__main__":
    main()
