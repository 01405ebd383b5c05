"""Tests of the kernels of heat fields against their definition."""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmf import kernels
from lmf.grid import Grid, Position, holder
from lmf.kernels import fields
from lmf.kernels.fields import ops, reference
from tests.conftest import ROOT, needs_compiler, needs_triton

BACKENDS = [pytest.param("cpu", marks=needs_compiler), pytest.param("triton", marks=needs_triton)]


def make(waves=32, size=(5, 7), batch=2, dtype=torch.float32, reach=30.0):
    """Latents, frequencies, decay and base, with angles up to several hundred for a large ``reach``."""
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, *size, 4 * waves, generator=g, dtype=torch.float64)
    latents[..., 3 * waves :] *= 5
    frequencies = torch.randn(2, waves, generator=g, dtype=torch.float64) * reach
    decay, base = (torch.rand(*s, generator=g, dtype=torch.float64) for s in ((batch, waves), (batch, 3, *size)))
    return [t.to(dtype) for t in (latents / waves**0.5, frequencies, decay, base)]


def places(batch, size, queries, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    return holder(torch.rand(batch, queries, 2, generator=g, dtype=dtype) * 2 - 1, size)


def defined(latents, frequencies, decay, base, index, offset):
    """The colours, wave by wave as the definition says, in float64."""
    latents, frequencies, decay, base, offset = (t.double() for t in (latents, frequencies, decay, base, offset))
    rgb = torch.empty(*index.shape, 3, dtype=torch.float64)
    n = frequencies.shape[1]
    for b in range(len(index)):
        own = latents[b].flatten(0, 1)[index[b]]
        for c in range(3):
            total = base[b, c].flatten()[index[b]].clone()
            for j in range(n):
                angle = offset[b, :, 0] * frequencies[0, j] + offset[b, :, 1] * frequencies[1, j] + own[:, 3 * n + j]
                total += own[:, c * n + j] * decay[b, j] * torch.sin(angle)
            rgb[b, :, c] = total
    return rgb


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize(("waves", "reach"), [(16, 30), (32, 30), (48, 300), (512, 50)])
def test_scattered_equals_the_definition(backend, waves, reach):
    tensors = make(waves, reach=reach)
    index, offset = places(2, (5, 7), 203 if backend != "triton" else 41)
    with kernels.backend(backend):
        rgb = fields.render(*tensors, index, offset)
    # Angles of several hundred are rounded by up to 3e-5 before their sines are taken.
    torch.testing.assert_close(rgb.double(), defined(*tensors, index, offset), atol=2e-7 * reach + 3e-6, rtol=0)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize(
    "size", [(5, 7), (10, 28), (13, 30), (3, 4), (40, 56), (9, 91), (200, 8)], ids=str
)  # x1, x2 and x4, fractional, reduced, x8, x13 along one axis, x40
def test_grid_equals_the_definition(backend, size):
    tensors, whole = make(16), Grid.of(*size)
    if backend == "triton" and size[0] * size[1] > 400:
        pytest.skip("the emulation of Triton is slow")
    rows, cols = size
    for target in (whole, Grid(whole.cells, (1, rows - 1), (1, cols))):
        y, x = target.holders((5, 7))
        with kernels.backend(backend):
            rgb = fields.render_grid(*tensors, y, x)
        index = (y.number[:, None] * 7 + x.number).flatten().expand(2, -1)
        offset = torch.cartesian_prod(y.offset, x.offset).expand(2, -1, 2)
        expected = defined(*tensors, index, offset).mT.unflatten(2, target.size)
        torch.testing.assert_close(rgb.double(), expected, atol=1e-5, rtol=0)


@needs_compiler
def test_many_different_columns(monkeypatch):
    """More columns than the kernel's table holds, in several threads and of several pictures."""
    tensors, size = make(512, (3, 41)), (8, 41 * 3 + 2)
    y, x = Grid.of(*size).holders((3, 41))
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            with kernels.backend("cpu"):
                found.append(fields.render_grid(*tensors, y, x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)
    expected = reference.render_grid(*tensors, y.number, y.offset, x.number, x.offset)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


@needs_compiler
def test_sines_up_to_thousands():
    """One wave without offset is the sine of its phase."""
    angles = torch.cat([torch.linspace(-8192, 8192, 100_003), torch.linspace(-8, 8, 100_003)])
    for turn in (0.0, math.pi / 2):  # the kernel's sines, and its cosines by way of a grid
        latents = torch.zeros(1, 1, len(angles), 64)
        latents[..., 0], latents[..., 48] = 1, angles
        frequencies = torch.zeros(2, 16)
        frequencies[0, 0] = 2 * turn
        base, decay = torch.zeros(1, 3, 1, len(angles)), torch.ones(1, 16)
        index = torch.arange(len(angles))
        with kernels.backend("cpu"):
            rows, columns = Position(index[:1], torch.tensor([0.5])), Position(index, torch.zeros(len(angles)))
            grid = fields.render_grid(latents, frequencies, decay, base, rows, columns)[0, 0, 0]
            points = fields.render(
                latents, torch.zeros(2, 16), decay, base, index[None], torch.zeros(1, len(angles), 2)
            )
        torch.testing.assert_close(points[0, :, 0].double(), angles.double().sin(), atol=1e-6, rtol=0)
        torch.testing.assert_close(grid.double(), (angles.double() + turn).sin(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_places_outside_are_clamped_and_nothing_is_empty(backend):
    tensors = make(16)
    with kernels.backend(backend):
        assert fields.render(*tensors, *places(2, (5, 7), 0)).shape == (2, 0, 3)
        nothing = Position(torch.zeros(0, dtype=torch.int64), torch.zeros(0))
        some = Position(torch.tensor([0, 4]), torch.zeros(2))
        assert fields.render_grid(*tensors, some, nothing).shape == (2, 3, 2, 0)
        assert fields.render_grid(*tensors, nothing, some).shape == (2, 3, 0, 2)
    if backend != "reference":
        _, offset = places(2, (5, 7), 4)
        with kernels.backend(backend):
            rgb = fields.render(*tensors, torch.tensor([[-9, 35, 10**12, 34]] * 2), offset)
            grid = fields.render_grid(*tensors, Position(torch.tensor([-3, 99]), torch.zeros(2)), some)
        expected = reference.render(*tensors, torch.tensor([[0, 34, 34, 34]] * 2), offset)
        torch.testing.assert_close(rgb, expected, atol=1e-5, rtol=0)
        assert grid.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients(dtype):
    tensors = [t.requires_grad_() for t in make(3, (2, 3), 1, torch.float64, reach=2)]
    index, offset = places(1, (2, 3), 5, torch.float64)
    assert torch.autograd.gradcheck(
        lambda *args: fields.render(*args[:4], index, args[4]), [*tensors, offset.requires_grad_()]
    )
    rows, columns = Grid.of(4, 9).holders((2, 3), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *args: fields.render_grid(*args, rows, columns), tensors, fast_mode=True)


def test_autocast_changes_nothing():
    tensors = make(32)
    index, offset = places(2, (5, 7), 20)
    y, x = Grid.of(10, 14).holders((5, 7))
    expected = fields.render(*tensors, index, offset), fields.render_grid(*tensors, y, x)
    for name in ("reference", None):
        with torch.autocast("cpu", torch.bfloat16), kernels.backend(name or ops.forced() or "reference"):
            found = fields.render(*tensors, index, offset), fields.render_grid(*tensors, y, x)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    half = fields.render(tensors[0].bfloat16(), *tensors[1:], index, offset)
    assert half.dtype == torch.float32


def test_counts_the_macs_of_the_definition():
    tensors = [t.to("meta") for t in make(32)]
    axis = torch.empty(10, dtype=torch.int64, device="meta")
    rows = Position(axis, torch.empty(10, device="meta"))
    with FlopCounterMode(display=False) as counter:
        out = fields.render(*tensors, axis.expand(2, 10), torch.empty(2, 10, 2, device="meta"))
        fields.render_grid(*tensors, rows, rows)
    assert out.shape == (2, 10, 3)
    assert counter.get_total_flops() == 2 * 2 * (10 + 100) * 5 * 32


def test_operators_obey_the_rules_of_torch_library():
    tensors = make(16)
    y, x = Grid.of(9, 14).holders((5, 7))
    torch.library.opcheck(ops.render, (*tensors, *places(2, (5, 7), 9)))
    torch.library.opcheck(ops.render_grid, (*tensors, *y, *x))


def test_errors_say_what_does_not_fit():
    latents, frequencies, decay, base = make(16)
    index, offset = places(2, (5, 7), 3)
    with pytest.raises(ValueError, match="16 frequencies need 64 numbers of a latent, got"):
        fields.render(latents[..., 1:], frequencies, decay, base, index, offset)
    with pytest.raises(ValueError, match="decay must be"):
        fields.render(latents, frequencies, decay[:1], base, index, offset)
    with pytest.raises(ValueError, match="index must be"):
        fields.render(latents, frequencies, decay, base, index.int(), offset)
    y, x = Grid.of(9, 14).holders((5, 7))
    with pytest.raises(ValueError, match="the indices of rows must be"):
        fields.render_grid(latents, frequencies, decay, base, Position(y.number[1:], y.offset), x)
    with pytest.raises(ValueError, match="'cpu' cannot serve 5 waves"), kernels.backend("cpu"):
        fields.render(*make(5), index, offset)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("flags", ["-march=x86-64-v3", "-march=x86-64-v2"])
def test_other_processors(flags):
    """The same tests with the kernel compiled for other registers."""
    if os.uname().machine != "x86_64":
        pytest.skip("needs an x86-64 processor")
    tests = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-k", "cpu or sines or many", __file__]
    subprocess.run(tests, cwd=ROOT, env=os.environ | {"LMF_CXXFLAGS": flags}, check=True)
