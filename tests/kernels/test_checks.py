"""Tests that tensors that do not fit are refused, and that coordinates that are not finite give NaN."""

import math
from dataclasses import replace

import pytest
import torch

from lmf import kernels
from lmf.decoders import LMLIIF, LMCiaoSR
from lmf.grid import Grid
from lmf.kernels import ops, reference
from lmf.kernels.enlarge import enlarge
from lmf.kernels.region import Layer, Region
from tests.conftest import needs_compiler
from tests.kernels.test_kernels import BACKENDS, CASES, make, scattered

EVERY_BACKEND = ["reference", *BACKENDS]


@pytest.fixture(params=EVERY_BACKEND)
def backend(request):
    with kernels.backend(request.param):
        yield request.param


@pytest.mark.parametrize("skip", ["none", "bilinear"])
@pytest.mark.parametrize(
    ("pictures", "coordinates", "cells"), [(4, 1, 1), (1, 4, 1), (2, 3, 3), (3, 2, 3), (1, 2, 2), (2, 2, 1)]
)
def test_batches_that_disagree(pictures, coordinates, cells, skip):
    torch.manual_seed(0)
    decoder = LMLIIF(8, depth=2, hyper=(16,), skip=skip)
    inputs = torch.rand(pictures, 8, 5, 6), torch.rand(pictures, 3, 5, 6), torch.full((pictures, 2), 0.1)
    with torch.no_grad(), pytest.raises(ValueError, match=r"\(\d, .*got .*\(\d, "):
        decoder.query(decoder.latent(*inputs), torch.rand(coordinates, 50, 2), torch.full((cells, 2), 0.1))


def test_batches_that_disagree_without_a_fused_kernel():
    decoder = LMCiaoSR(8, depth=2, hyper=(16,), prenet=(8,), hidden_k=(8,), hidden_v=(8,))
    latent = decoder.latent(torch.rand(2, 8, 5, 6), torch.rand(2, 3, 5, 6), torch.full((2, 2), 0.1))
    with pytest.raises(ValueError, match=r"coord must be \(2, Q, 2\).*\(3, 7, 2\)"):
        kernels.blend(latent.modulation, latent.code, torch.rand(3, 7, 2), lambda *_: torch.zeros(3, 7, 3))
    with pytest.raises(ValueError, match=r"\(B, h, w, K\).*\(2, 4, 6, "):
        kernels.blend(latent.modulation, latent.code[:, 1:], torch.rand(2, 7, 2), lambda *_: torch.zeros(2, 7, 3))


def test_errors_name_the_tensor_its_shape_and_the_right_one(backend):
    modulation, code, extra, weights = make("linear", 16, 2, 16, 2)
    coord = scattered(2, 3)
    args = {"modulation": modulation, "code": code, "extra": extra, "coord": coord, **weights._asdict()}
    for change, message in [
        ({"modulation": modulation[..., 1:]}, r"need 64 modulations, got 63: modulation is \(2, 5, 7, 63\)"),
        ({"modulation": modulation[0]}, r"modulation must be \(B, h, w, 2 L D\) .*got \(5, 7, 64\)"),
        ({"code": code[..., 1:]}, r"the first layer reads 20 .*\(2, 5, 7, 15\)"),
        ({"code": code[:, 1:]}, r"code must be \(2, 5, 7, K\) .*got \(2, 4, 7, 16\)"),
        ({"extra": extra[:1]}, r"extra must be \(2, E\) .*got \(1, 2\)"),
        ({"coord": coord[:1]}, r"coord must be \(2, Q, 2\) .*got \(1, 3, 2\)"),
        ({"coord": coord.double()}, r"coord must be .*float32 on cpu, got \(2, 3, 2\) torch.float64"),
        ({"coord": coord.to("meta")}, r"coord must be .*on cpu, got .*on meta"),
        ({"hidden": weights.hidden[:0]}, r"hidden must be \(1, 16, 16\) .*got \(0, 16, 16\)"),
        ({"out": weights.out[:2]}, r"out must be \(3, 16\) .*got \(2, 16\)"),
        ({"bias": weights.bias[:, 1:]}, r"bias must be \(2, 16\) .*got \(2, 15\)"),
        ({"out_bias": weights.out_bias[None]}, r"out_bias must be \(3,\) .*got \(1, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            torch.ops.lmf.render(**(args | change), encoding="linear")
    with pytest.raises(ValueError, match="'cubic'"):
        torch.ops.lmf.render(**args, encoding="cubic")
    with pytest.raises(ValueError, match=r"grad must be \(2, 3, 3\)"):
        torch.ops.lmf.render_backward(grad=torch.zeros(2, 3, 2), **args, encoding="linear")
    with pytest.raises(ValueError, match="from 1 to"):
        kernels.render(modulation[:, :0], code[:, :0], extra, coord, weights, "linear")
    del args["coord"]
    y, image = torch.zeros(3), torch.zeros(1, 3, 5, 7)
    with pytest.raises(ValueError, match=r"image must be \(2, 3, h', w'\) .*got \(1, 3, 5, 7\)"):
        torch.ops.lmf.render_grid(y=y, x=y, image=image, **args, encoding="linear")
    with pytest.raises(ValueError, match=r"x must be \(W,\) .*got \(3, 1\)"):
        torch.ops.lmf.render_grid(y=y, x=y[:, None], image=None, **args, encoding="linear")
    with pytest.raises(ValueError, match=r"image must be"):
        kernels.render_grid(modulation, code, extra, Grid.of(4, 4), image, weights, "linear")


@needs_compiler
def test_regions_that_lie_elsewhere():
    modulation, code, extra, weights = make("linear", 16, 2, 16, 2, batch=1)
    target = Grid.of(10, 14)
    whole = Region.whole(target.size, 4)
    for part, message in [
        (replace(whole, size=(10, 15)), r"\(10, 14\).*\(10, 15\)"),
        (replace(whole, rows=whole.rows.int()), "int64"),
        (replace(whole, rows=whole.rows + 1), "outside its grid"),
        (replace(whole, rows=whole.rows.flip(0)), "out of order"),
        (replace(whole, first=whole.first + 1), "outside its grid"),
        (replace(whole, runs=whole.runs - 1), "outside its grid"),
        (replace(whole, runs=whole.runs.flip(1)), "out of order"),
    ]:
        out = torch.full((3, *target.size), 7.0)
        layers = [Layer(target, torch.zeros(1, 2), part)]
        with pytest.raises(ValueError, match=message):
            kernels.render_layers(out, target, layers, modulation, code, extra, None, weights, "linear")
        assert (out == 7).all()
        if "grid" in message or "order" in message:
            with pytest.raises(ValueError, match="outside the picture"):
                enlarge(torch.zeros(3, 5, 7), Grid.of(5, 7), target, out, part)


@pytest.mark.parametrize("case", [CASES[0], CASES[3]], ids=str)
def test_coordinates_that_are_not_finite_give_nan(case, backend):
    modulation, code, extra, weights = make(*case)
    at = torch.tensor([math.nan, math.inf, -math.inf, 0.3, -1.0, 5.0])
    coord = torch.stack(torch.meshgrid(at, at, indexing="ij"), dim=-1).flatten(0, 1).expand(2, -1, -1)
    rgb = kernels.render(modulation, code, extra, coord, weights, case[0])
    assert torch.equal(rgb.isnan(), ~coord.isfinite().all(-1)[..., None].expand(-1, -1, 3))
    expected = reference.render(modulation, code, extra, coord, weights, case[0])
    torch.testing.assert_close(rgb, expected, equal_nan=True, rtol=1e-3, atol=1e-3)
    image = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    for skip in (None, image):
        grid = ops.render_grid(modulation, code, extra, at, at, skip, *weights, case[0])
        assert torch.equal(grid.isnan().flatten(2).transpose(1, 2), rgb.isnan())
        expected = reference.render_grid(modulation, code, extra, at, at, skip, weights, case[0])
        torch.testing.assert_close(grid, expected, equal_nan=True, rtol=1e-3, atol=1e-3)


def test_coordinates_far_beyond_the_border_read_it(backend):
    """All coordinates lie beyond one side, far from all rows of latents."""
    modulation, code, extra, weights = make("linear", 16, 2, 16, 2)
    for y in (-9.0, 9.0):
        coord = torch.tensor([[y, 0.1], [y, -0.7]]).expand(2, -1, -1)
        rgb = kernels.render(modulation, code, extra, coord, weights, "linear")
        expected = reference.render(modulation, code, extra, coord, weights, "linear")
        torch.testing.assert_close(rgb, expected, rtol=1e-4, atol=1e-4)


def test_axes_may_be_in_any_order(backend):
    modulation, code, extra, weights = make("linear", 16, 2, 16, 2)
    y, x = Grid.of(9, 80).axes()
    image = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    whole = ops.render_grid(modulation, code, extra, y, x, image, *weights, "linear")
    rows, cols = (torch.randperm(len(t), generator=torch.Generator().manual_seed(1)) for t in (y, x))
    mixed = ops.render_grid(modulation, code, extra, y[rows], x[cols], image, *weights, "linear")
    torch.testing.assert_close(mixed, whole[:, :, rows][..., cols], rtol=1e-5, atol=2e-5)


def test_nothing_to_render(backend):
    modulation, code, extra, weights = make("linear", 16, 2, 16, 2)
    assert kernels.render(modulation, code, extra, torch.zeros(2, 0, 2), weights, "linear").shape == (2, 0, 3)
    none = Grid((4, 4), (2, 2), (0, 4))
    assert kernels.render_grid(modulation, code, extra, none, None, weights, "linear").shape == (2, 3, 0, 4)
    no_batch = modulation[:0], code[:0], extra[:0]
    assert kernels.render(*no_batch, torch.zeros(0, 5, 2), weights, "linear").shape == (0, 5, 3)
    assert enlarge(torch.zeros(3, 4, 4), Grid.of(4, 4), none).shape == (3, 0, 4)
