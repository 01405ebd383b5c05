"""SRNO: the released code's outputs and gradients, and pictures rendered in parts."""

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import lmf
from lmf import SRModel, decoders, encoders
from lmf.benchmark.cost import count
from lmf.decoders import galerkin, srno
from lmf.grid import Grid
from lmf.inference import tiling
from lmf.renderers import Dense
from tests import golden

FIXTURE = golden.FIXTURE.with_name("golden_srno.safetensors")  # a part of the golden, which travels with the tests


@pytest.fixture(scope="module", params=["part", pytest.param("whole", marks=pytest.mark.slow)])
def case(request):
    path = FIXTURE if request.param == "part" else request.getfixturevalue("shared") / "golden" / "srno.safetensors"
    g = golden.load(path)
    return g, g.model().eval()


def clipped(grid, scale):
    return torch.tensor([grid.cell]) * max(scale / 4, 1)


def assert_agrees(ours, theirs):
    """Every pixel: one that differs would change all others."""
    assert (ours - theirs).abs().max() < 1e-4


@torch.no_grad()
def test_pictures(case):
    g, model = case
    for h, w, scale, height, width in g.cases:
        grid, lr = Grid.of(height, width), golden.image(g.tensors[f"lr_{h}x{w}"])
        theirs = g.tensors[f"out_{h}x{w}_x{scale}"]
        assert_agrees(model(lr, grid.coord()[None], clipped(grid, scale)).view(height, width, 3), theirs)
        assert_agrees(model.render(lr, (height, width))[0].permute(1, 2, 0), theirs)
        bands = torch.cat([*tiling.bands(model, lr, (height, width), tile=8)], dim=2)
        assert_agrees(bands[0].permute(1, 2, 0), theirs)


@torch.no_grad()
def test_a_call_for_some_rows_is_another_function(case):
    g, model = case
    grid, lr = Grid.of(48, 63), golden.image(g.tensors["lr_13x17"])
    rows = [model(lr, grid.band(i, i + 16).coord()[None], clipped(grid, 3.7)) for i in range(0, 48, 16)]
    theirs = g.tensors["rows16_13x17_x3.7"]
    assert_agrees(torch.cat(rows, dim=1).view(48, 63, 3), theirs)
    assert (model.render(lr, (48, 63))[0].permute(1, 2, 0) - theirs).abs().max() > 1e-2


@torch.no_grad()
def test_queries(case):
    g, model = case
    coord, cell = g.tensors["query_coord"][None], g.tensors["query_cell"]
    assert_agrees(model(g.lr, coord, cell)[0], g.tensors["query_out"])
    assert_agrees(model(g.lr, coord[:, :100], cell)[0], g.tensors["query_out_first100"])


def test_training(case):
    g, model = case
    coord, cell = g.tensors["query_coord"][None], g.tensors["query_cell"]
    for dtype in (torch.float32, torch.float64):
        own = copy.deepcopy(model).to(dtype).train()
        lr = torch.cat([g.lr, -0.7 * g.lr]).to(dtype)
        out = own(lr, coord.expand(2, -1, 2).to(dtype), cell.expand(2, 2).to(dtype))
        assert_agrees(out, g.tensors["train_out"])
        out[0].abs().mean().backward()
        parameters, gradients = dict(own.named_parameters()), g.gradients()
        assert len(gradients) == sum(key.startswith("grad_") for key in g.tensors) > 4
        for key, theirs in gradients.items():
            assert (parameters[key].grad - theirs).abs().max() < 1e-4 * theirs.abs().max(), key


def test_its_checkpoints_load(tmp_path):
    """They have the container of LIIF."""
    g = golden.load(FIXTURE)
    content = {"model": {**g.spec, "sd": golden.weights(g.keys, g.seed)}, "optimizer": {"name": "adam"}, "epoch": 1000}
    torch.save(content, tmp_path / "edsr-baseline_epoch-1000.pth")
    model = lmf.load(tmp_path / "edsr-baseline_epoch-1000.pth")
    with torch.no_grad():
        out = model(g.lr, g.tensors["query_coord"][None], g.tensors["query_cell"])
    assert_agrees(out[0], g.tensors["query_out"])
    assert isinstance(model.decoder, decoders.SRNO)


def published(encoder=None):
    torch.manual_seed(0)
    return SRModel(encoder or encoders.EDSR(blocks=1), decoders.SRNO()).eval()


def picture(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.7, 1, 2.6, 3, 5, 12])
def test_streamed_equals_one_call(monkeypatch, scale):
    """At odd scales pixels lie on ties between latents."""
    monkeypatch.setattr(galerkin, "QUERIES", 150)
    model, lr = published(), picture(2, 3, 9, 13)
    size = (round(9 * scale), round(13 * scale))
    enlargement = model.prepare(lr, size)
    coord = enlargement.target.coord()[None].expand(2, -1, 2)
    whole = model.decoder.query(enlargement.latent(), coord, enlargement.cell)
    found = [model.render(lr, size), torch.cat([*tiling.bands(model, lr, size, tile=6)], dim=2)]
    for streamed in found:
        assert (streamed.flatten(2).mT - whole).abs().max() < 1e-5


@torch.no_grad()
def test_streamed_equals_one_call_with_padding():
    model, lr, size = published(encoders.SwinIR(depths=[1], heads=[6])), picture(1, 3, 9, 13), (31, 41)
    enlargement = model.prepare(lr, size)
    coord = enlargement.target.coord()[None]
    whole = model.decoder.query(enlargement.latent(), coord, enlargement.cell)
    assert (model.render(lr, size).flatten(2).mT - whole).abs().max() < 1e-5


@torch.no_grad()
def test_parts_belong_to_the_whole_picture():
    model, lr, size = published(), picture(1, 3, 9, 13), (30, 44)
    enlargement, whole = model.prepare(lr, size), model.render(lr, size)
    part = enlargement.crop((3, 8), (5, 40))
    for latent in (None, enlargement.latent(), enlargement.summarised()):
        assert (part.render(latent) - whole[:, :, 3:8, 5:40]).abs().max() < 1e-5
    alone = model.decoder.render(enlargement.latent(), part.target, enlargement.cell)
    assert (alone - whole[:, :, 3:8, 5:40]).abs().max() > 1e-4


@torch.no_grad()
def test_memory_is_bounded(monkeypatch):
    """However large the picture, no layer receives more than `QUERIES` queries or a few rows of LR pixels."""
    monkeypatch.setattr(galerkin, "QUERIES", 500)
    model, lengths = published(), []
    linear = srno.linear
    monkeypatch.setattr(srno, "linear", lambda x, *args: [linear(x, *args), lengths.append(x.shape[-2])][0])
    for layer in (*model.decoder.modules(),):
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda module, args, out: lengths.append(args[0].shape[-2]))
    for _ in tiling.bands(model, picture(1, 3, 30, 40), (90, 120)):
        pass
    assert lengths
    assert max(lengths) <= 500


@torch.no_grad()
def test_images_of_a_batch_never_meet():
    model, size = published(), (25, 31)
    lr = picture(3, 3, 9, 13)
    together = model.render(lr, size)
    alone = torch.cat([model.render(one[None], size) for one in lr])
    assert (together - alone).abs().max() < 1e-5
    lr[1] = 0
    assert torch.equal(model.render(lr, size)[[0, 2]], together[[0, 2]])


def test_gradients_equal_those_in_double_precision():
    model = published()
    coord = torch.rand(2, 60, 2, generator=torch.Generator().manual_seed(2)) * 2 - 1
    gradients = []
    for dtype in (torch.float32, torch.float64):
        own = copy.deepcopy(model).to(dtype)
        own(
            picture(2, 3, 9, 13).to(dtype), coord.to(dtype), torch.full((2, 2), 0.1, dtype=dtype)
        ).abs().mean().backward()
        gradients.append({name: p.grad for name, p in own.named_parameters()})
    for name, double in gradients[1].items():
        assert (gradients[0][name] - double).abs().max() <= 1e-4 * double.abs().max() + 1e-9, name


PUBLISHED_GMACS = {2: 185.7, 3: 417.9, 4: 742.9, 6: 1671.6, 8: 2971.8, 12: 6686.5}
LIFTING, ATTENTION, OUT = 266 * 256, 256 * 768 + 2 * 16**3 + 2 * 256**2, 256**2 + 256 * 3


@pytest.mark.parametrize("scale", PUBLISHED_GMACS)
def test_cost(scale):
    """A call for all pixels costs what the published code costs."""
    cost = count(published(), (180, 320), scale=scale)
    assert cost.latent_macs == 0
    assert cost.render_macs == cost.queries * (LIFTING + 2 * ATTENTION + OUT) == cost.queries * 806_144
    assert round(cost.decoder_macs / 1e9, 1) == PUBLISHED_GMACS[scale]


@torch.no_grad()
def test_streaming_multiplies_less_than_one_call():
    """At x4, all passes together: composed maps replace products for each query by ones for each LR pixel."""
    model = published()
    lr, size = picture(1, 3, 32, 32), (128, 128)
    feat = model.features(lr)
    enlargement = model.prepare(lr, size)
    with FlopCounterMode(display=False) as counter:
        enlargement.render(enlargement.latent(feat), Dense())
    assert counter.get_total_flops() / 2 < 0.7 * 128 * 128 * 806_144


@pytest.mark.parametrize(("width", "heads"), [(16, 3), (16, 16), (16, 0)])
def test_heads_must_fit(width, heads):
    with pytest.raises(ValueError, match=rf"multiple of heads and at least twice as large, got {width} and {heads}"):
        decoders.SRNO(8, width, heads)


def test_head_norm_has_gradients_everywhere():
    """Of a constant head too, whose deviation is 0."""
    norm = galerkin.HeadNorm(2, 4).double()
    x = torch.rand(3, 2, 4, dtype=torch.float64)
    x[1] = 0.5
    x.requires_grad_()
    out = norm(x)
    expected = (x - x.mean(dim=-1, keepdim=True)) / (x.std(dim=-1, keepdim=True) + 1e-5)
    torch.testing.assert_close(out, expected)
    grads = [torch.autograd.grad((y * torch.arange(4.0)).square().sum(), x)[0] for y in (out, expected)]
    torch.testing.assert_close(*grads)


@torch.no_grad()
def test_in_half_precision():
    model, lr = published(), picture(1, 3, 9, 13)
    single = model.render(lr, (30, 44))
    with torch.autocast("cpu", torch.bfloat16):
        half = model.render(lr, (30, 44))
    assert 0 < (half - single).abs().max() < 0.02
