"""Measures how many times faster the fused kernels are than PyTorch, and compares with the committed ratios.

    python benchmarks/ratios.py             compare with benchmarks/baseline.json; status 1 if a ratio fell
    python benchmarks/ratios.py --write     replace the ratios of this kind of processor there
    python benchmarks/ratios.py --only x4   some of them

The two sides of a ratio run in turns, and the least time of each counts, so that other load on the machine affects the
ratio little. It still varies by some 10 % between runs and more between processors of one kind: a ratio counts as
fallen below TOLERANCE times the committed one.
"""

import argparse
import json
import platform
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import torch

import lmf
from lmf import kernels
from lmf.benchmark.cost import picture
from lmf.grid import Grid
from lmf.io.files import write_text
from lmf.kernels.build import library

BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = 0.75
SIZES = {"160x90": (90, 160), "640x360": (360, 640)}


def kind():
    """Return the vector instructions that the kernels were compiled for, by which ratios are kept."""
    native = library()
    if native is None:
        raise SystemExit("the kernels are not compiled: there is nothing to compare")
    wide = {64: "avx512", 32: "avx2"}
    return wide.get(native.register_bytes(), f"{platform.machine()}, 128 bits")


def model_of(channels, blocks):
    """Return LM-LIIF on EDSR; EDSR-baseline has 64 channels and 16 blocks."""
    torch.manual_seed(0)
    encoder = lmf.encoders.EDSR(channels, blocks)
    return lmf.SRModel(encoder, lmf.decoders.LMLIIF(channels)).eval()


def works(model, sizes, batch):
    """Yield (name, work, slow side, fast side); a side is a list of contexts."""
    winograd, direct = [kernels.encoder, "winograd"], [kernels.encoder, "torch"]
    for name, size in sizes.items():
        image = picture(size, "cpu")
        yield f"encoder {name}", without_gradients(lambda image=image: model.features(image)), direct, winograd
    name, size = next(iter(sizes.items()))
    image, large = picture(size, "cpu"), (4 * size[0], 4 * size[1])
    yield f"x4 {name}", without_gradients(lambda: model.render(image, large)), direct, winograd
    enlargement = model.prepare(image, large)
    with torch.inference_mode():
        latent = enlargement.latent()
    fused, reference = [kernels.backend, "cpu"], [kernels.backend, "reference"]
    yield f"render x4 {name}", without_gradients(lambda: enlargement.render(latent)), reference, fused
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    patches = picture((48, 48), "cpu").expand(batch, -1, -1, -1).contiguous()
    coord = Grid.of(48, 48).coord()[None].expand(batch, -1, -1)
    cell = torch.full((batch, 2), 2 / 96)

    def step():
        optimizer.zero_grad()
        model(patches, coord, cell).abs().mean().backward()
        optimizer.step()

    yield f"training step {batch}x48x48", step, direct, winograd


def without_gradients(work):
    return torch.inference_mode()(work)


def measure(model, sizes, batch, repeats, only=""):
    """Yield the name of every work whose name contains ``only``, the ratio of its two least times, and these."""
    for name, work, *sides in works(model, sizes, batch):
        if only not in name:
            continue
        times = [[], []]
        for turn in range(1 + repeats):
            for taken, (context, choice) in zip(times, sides, strict=True):
                with ExitStack() as stack:
                    stack.enter_context(context(choice))
                    start = time.perf_counter()
                    work()
                    if turn:
                        taken.append(time.perf_counter() - start)
        slow, fast = map(min, times)
        yield name, slow / fast, slow, fast


def fallen(measured, kept):
    """Return the names of the ratios that are below TOLERANCE times the kept ones."""
    return [name for name, ratio in kept.items() if name in measured and measured[name] < TOLERANCE * ratio]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the committed ratios")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", metavar="TEXT", help="only ratios whose name contains TEXT")
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--tiny", action="store_true", help="a tiny model and picture, to try the script")
    options = parser.parse_args()
    own = kind()
    sizes, batch = ({"12x10": (10, 12)}, 1) if options.tiny else (SIZES, 16)
    model = model_of(*((8, 1) if options.tiny else (64, 16)))
    baseline = json.loads(options.baseline.read_text()) if options.baseline.exists() else {}
    kept = baseline.get(own, {})
    print(f"{own}, {torch.get_num_threads()} threads: times faster than PyTorch")
    measured = {}
    for name, ratio, slow, fast in measure(model, sizes, batch, options.repeats, options.only):
        measured[name] = round(ratio, 2)
        before = f", committed {kept[name]:.2f}" if name in kept else ""
        print(f"  {name:24} {ratio:6.2f}   ({1000 * slow:.1f} / {1000 * fast:.1f} ms{before})", flush=True)
    if options.write:
        baseline[own] = kept | measured
        write_text(options.baseline, json.dumps(baseline, indent=1) + "\n")
    elif not kept:
        print(f"no ratios are committed for {own}: nothing is compared")
    elif names := fallen(measured, kept):
        sys.exit(f"below {TOLERANCE} times the committed ratio: {', '.join(names)}")


if __name__ == "__main__":
    main()
