"""Reads damaged pictures, none of which may crash, hang, raise anything but `ImageError`, or take much memory.

``python -m tests.io.mutate 5000`` prints the outcomes for 5000 pictures from a fixed seed. Truncated files must be
refused unless they still hold the whole picture.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from tests.io.corpus import corpus

SECONDS = 10
MEMORY = 2 << 30
ROOT = Path(__file__).resolve().parents[2]


def mutated(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Return a description of the damage and the damaged file."""
    kind = ("cut", "flip", "field", "insert", "delete", "zero", "copy")[rng.integers(7)]
    out, size = bytearray(data), len(data)
    at = int(rng.integers(size))
    length = int(rng.integers(1, 65))
    if kind == "cut":
        out = out[:at]
    elif kind == "flip":
        for place in rng.integers(0, size, rng.integers(1, 9)):
            out[place] ^= 1 << int(rng.integers(8))
    elif kind == "field":  # headers lie at the front; in TIFF files often at the end
        at = int(rng.integers(min(size, 200))) if rng.random() < 0.7 else size - 1 - int(rng.integers(min(size, 300)))
        value = (0, 1, 2, 255, 256, 65535, 2**31 - 1, 2**32 - 1, int(rng.integers(2**32)))[rng.integers(9)]
        width = (1, 2, 4)[rng.integers(3)]
        order = ("little", "big")[rng.integers(2)]
        out[at : at + width] = (value % 256**width).to_bytes(width, order)  # type: ignore[arg-type]
        out = out[:size]
    elif kind == "insert":
        out[at:at] = rng.bytes(length)
    elif kind == "delete":
        del out[at : at + length]
    elif kind == "zero":
        out[at : at + length] = bytes(len(out[at : at + length]))
    else:
        other = int(rng.integers(size))
        out[at : at + length] = out[other : other + length]
    return kind, bytes(out)


class Reader:
    """A process that reads pictures by name; it is replaced when it ends."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.io.mutate", "--read"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
        )
        assert self.process.stdout
        self.process.stdout.readline()  # it has started, which takes longer than reading

    def read(self, path: Path) -> dict[str, object]:
        """Return the outcome of reading ``path`` and the peak memory so far."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        outcome = "hang" if not ready else "crash"
        self.close()
        self.start()
        return {"outcome": outcome, "peak": 0}

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def serve() -> None:
    """Read the pictures named on standard input."""
    from lmf import io

    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        try:
            pages = [picture.pixels for picture in io.read_pages(line.rstrip("\n"))]
            outcome = "pixels " + hashlib.sha256(b"".join(b"%r" % (p.shape,) + p.tobytes() for p in pages)).hexdigest()
        except io.ImageError as error:
            outcome = "refused" if "\n" not in str(error) else f"more than a line: {error}"
        except BaseException as error:
            outcome = f"raised {type(error).__name__}: {error}"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"outcome": outcome, "peak": peak}), file=answers, flush=True)


def campaign(count: int, folder: Path, seed: int = 0) -> tuple[Counter[str], list[str], int]:
    """Return the count of each outcome, the descriptions of all faults, and the peak memory in bytes."""
    rng, files = np.random.default_rng(seed), sorted(corpus().items())
    outcomes: Counter[str] = Counter()
    faults, peak, reader = [], 0, Reader()
    try:
        intact = {}
        for name, data in files:
            (folder / name).write_bytes(data)
            intact[name] = reader.read(folder / name)["outcome"]
            if not str(intact[name]).startswith("pixels"):
                faults.append(f"{name} intact: {intact[name]}")
        for number in range(count):
            name, data = files[number % len(files)]
            kind, damaged = mutated(data, rng)
            path = folder / f"{number}_{kind}_{name}"
            path.write_bytes(damaged)
            answer = reader.read(path)
            outcome, peak = str(answer["outcome"]), max(peak, int(str(answer["peak"])))
            if outcome.startswith("pixels"):
                outcome = "same" if outcome == intact[name] else "read, other pixels"
            outcomes[outcome.split(":")[0]] += 1
            if outcome not in ("refused", "same", "read, other pixels") or (
                kind == "cut" and outcome.startswith("read")
            ):
                faults.append(f"{path}: {outcome}")
            else:
                path.unlink()
    finally:
        reader.close()
    if peak > MEMORY:
        faults.append(f"peak memory {peak / 2**30:.2f} GiB")
    return outcomes, faults, peak


def main() -> None:
    if sys.argv[1:] == ["--read"]:
        serve()
        return
    outcomes, faults, peak = campaign(int(sys.argv[1]), Path(tempfile.mkdtemp()))
    print(dict(outcomes), f"peak {peak / 2**30:.2f} GiB", *faults, sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
