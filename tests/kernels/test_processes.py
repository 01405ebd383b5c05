"""Tests of the compiled kernel in several threads, in forked processes and over many calls."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lmf import kernels
from lmf.grid import Grid
from tests.conftest import needs_compiler
from tests.kernels.test_kernels import make, scattered

pytestmark = needs_compiler


def test_threads_agree_with_one():
    modulation, code, extra, weights = make("fourier", 16, 3, 32, 8, size=(9, 8))
    coord, image = scattered(2, 3000), torch.rand(2, 3, 9, 8)

    def work(scale: int) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            grid = Grid.of(9 * scale, 8 * scale)
            return (
                kernels.render(modulation, code, extra, coord * (scale / 8), weights, "fourier"),
                kernels.render_grid(modulation, code, extra, grid, image, weights, "fourier"),
            )

    scales = [1, 2, 3, 4, 5, 6, 7, 8] * 3
    alone = [work(scale) for scale in scales]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, scales))
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


FORKED = """
import os, signal, torch
from lmf import kernels
from tests.kernels.test_kernels import make, scattered
torch.set_num_threads(2)
modulation, code, extra, weights = make("linear", 16, 2, 16, 2)
coord = scattered(2, 40000)  # for several threads, in the kernel and in torch
before = kernels.render(modulation, code, extra, coord, weights, "linear") + 1
child = os.fork()
if not child:
    signal.alarm(60)
    after = kernels.render(modulation, code, extra, coord, weights, "linear") + 1
    os._exit(0 if torch.equal(before, after) and torch.get_num_threads() == 1 else 1)
assert os.waitpid(child, 0)[1] == 0
assert torch.get_num_threads() == 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_renders():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=200)


LEAK = """
import torch
from pathlib import Path
from lmf import kernels
from lmf.grid import Grid
from lmf.kernels.enlarge import enlarge
from tests.kernels.test_kernels import make, scattered
modulation, code, extra, weights = make("linear", 16, 2, 16, 2, size=(40, 40))
coord, image, grid = scattered(2, 20000), torch.rand(2, 3, 40, 40), Grid.of(300, 300)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def calls(n):
    with torch.no_grad():
        for _ in range(n):
            kernels.render(modulation, code, extra, coord, weights, "linear")
            kernels.render_grid(modulation, code, extra, grid, image, weights, "linear")
            enlarge(image[0], Grid.of(40, 40), grid)

calls(20)
before = resident()
calls(200)
print(resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="sanitizers keep freed memory")
def test_many_calls_keep_no_memory():
    """A picture takes 2 MB; a leak of one per call would take 400 MB."""
    run = subprocess.run([sys.executable, "-c", LEAK], check=True, capture_output=True, text=True)
    assert int(run.stdout) < 20e6
