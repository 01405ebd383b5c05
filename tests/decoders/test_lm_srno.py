"""LM-SRNO: its definition, its cost, and pictures rendered in parts."""

import re

import pytest
import torch
import torch.nn.functional as F

from lmf import SRModel, decoders, encoders, grid, kernels
from lmf.benchmark.cost import count
from lmf.decoders import galerkin
from lmf.grid import Grid
from lmf.renderers import CMSR
from tests.conftest import ROOT


def small():
    torch.manual_seed(0)
    return decoders.LMSRNO(6, 8, 2, 12, 3, code_channels=5).eval()


@torch.no_grad()
def test_is_attention_over_the_lr_pixels():
    """Computed pixel by pixel and head by head in float64."""
    decoder, (h, w) = small().double(), (4, 5)
    feat, image = torch.randn(2, 6, h, w).double(), torch.rand(2, 3, h, w).double()
    cell = torch.tensor([[0.2, 0.1], [0.3, 0.15]]).double()
    latent = decoder.latent(feat, image, cell)
    for b in range(2):
        unfolded = F.unfold(feat[b : b + 1], 3, padding=1)[0].T  # (h w, 9 C)
        size = (cell[b] * torch.tensor([h, w])).expand(h * w, 2)
        x = F.linear(torch.cat([unfolded, size], dim=1), decoder.lift.weight, decoder.lift.bias)
        for layer in decoder.attention:
            heads = []
            qkv = F.linear(x, layer.qkv.weight, layer.qkv.bias)
            for n in range(3):
                q, k, v = qkv[:, 12 * n : 12 * n + 12].split(4, dim=1)

                def normal(u, norm, n=n):
                    mean = u.mean(dim=1, keepdim=True)
                    std = ((u - mean).square().sum(dim=1, keepdim=True) / 3).sqrt()
                    return (u - mean) / (std + 1e-5) * norm.weight[n] + norm.bias[n]

                k, v = normal(k, layer.key_norm), normal(v, layer.value_norm)
                mean = sum(torch.outer(k[i], v[i]) for i in range(h * w)) / (h * w)
                heads.append(q @ mean)
            x = layer.out2(F.gelu(layer.out1(torch.cat(heads, dim=1) + x))) + x
        x = decoder.hypernet(x).view(h, w, -1)
        torch.testing.assert_close(latent.modulation[b], x[..., :32])
        torch.testing.assert_close(latent.code[b], x[..., 32:])


@torch.no_grad()
def test_renders_code_coordinate_and_cell():
    decoder = small()
    feat, image = torch.randn(1, 6, 4, 5), torch.rand(1, 3, 4, 5)
    target = Grid.of(11, 17)
    cell = decoder.cell(target, (4, 5), 1, feat.device)
    latent, coord = decoder.latent(feat, image, cell), target.coord()[None]
    rgb = grid.bilinear(image, coord)
    for index, rel, weight in zip(*grid.ensemble(coord, (4, 5)), strict=True):
        rel_cell = (cell * torch.tensor([4, 5]))[:, None].expand_as(coord)
        x = torch.cat([grid.take(latent.code, index), rel, rel_cell], dim=-1)
        rgb = rgb + weight[..., None] * decoder.imnet(x, grid.take(latent.modulation, index))
    fused = decoder.render(latent, target, cell)
    with kernels.backend("reference"):
        plain = decoder.render(latent, target, cell)
    for found in (fused, plain):
        torch.testing.assert_close(found.flatten(2).mT, rgb, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_latents_in_parts_are_the_same(monkeypatch):
    decoder = small()
    feat, image, cell = torch.randn(2, 6, 9, 8), torch.rand(2, 3, 9, 8), torch.full((2, 2), 0.1)
    whole = decoder.latent(feat, image, cell)
    monkeypatch.setattr(galerkin, "QUERIES", 17)
    torch.testing.assert_close(decoder.latent(feat, image, cell).modulation, whole.modulation)


def test_gradients_equal_those_in_double_precision():
    torch.manual_seed(0)
    feat, image = torch.randn(2, 6, 6, 7), torch.rand(2, 3, 6, 7)
    coord, cell = torch.rand(2, 50, 2) * 2 - 1, torch.full((2, 2), 0.1)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        own = small().to(dtype)
        arguments = [t.to(dtype) for t in (feat, image, cell, coord)]
        latent = own.latent(*arguments[:3])
        own.query(latent, arguments[3], arguments[2]).abs().mean().backward()
        gradients.append({name: p.grad for name, p in own.named_parameters()})
    for name, double in gradients[1].items():
        assert (gradients[0][name] - double).abs().max() <= 1e-4 * double.abs().max() + 1e-9, name


@pytest.mark.parametrize("scale", [2, 4, 12])
def test_cost(scale):
    """The latent once per LR pixel whatever the scale; rendering costs what LM-LIIF's does."""
    cost = count(SRModel(encoders.EDSR(blocks=1), decoders.LMSRNO()), (180, 320), scale=scale)
    latent = 576 * 256 + 2 * (256 * 768 + 2 * 16**3 + 2 * 256**2) + 256 * 208
    assert cost.latent_macs == 180 * 320 * latent + 2 * 256
    assert round(cost.latent_macs / 1e9) == 50
    liif = count(SRModel(encoders.EDSR(blocks=1), decoders.LMLIIF()), (180, 320), scale=scale)
    assert cost.render_macs == liif.render_macs


@torch.no_grad()
def test_is_the_example_of_the_guide():
    """The class in the section on three questions, with the weights of LM-SRNO, gives its picture."""
    text = (ROOT / "docs" / "adding-a-decoder.md").read_text()
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        if "import nn" in block or "class AttentionDecoder" in block:
            exec(block, names)
    theirs, ours = names["AttentionDecoder"](6).eval(), decoders.LMSRNO(6).eval()
    theirs.load_state_dict(ours.state_dict())
    feat, image, target = torch.randn(1, 6, 5, 7), torch.rand(1, 3, 5, 7), Grid.of(13, 21)
    cell = ours.cell(target, (5, 7), 1, feat.device)
    found, expected = (d.render(d.latent(feat, image, cell), target, cell) for d in (theirs, ours))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", [decoders.LMSRNO, decoders.LMLTEHeat])
def test_multi_scale_rendering(kind):
    """Coarse where the modulation is weak; as dense rendering where it is strong."""
    torch.manual_seed(0)
    model = SRModel(encoders.EDSR(8, 1), kind(8, depth=2)).eval()
    enlargement = model.prepare(torch.rand(1, 3, 12, 15) * 2 - 1, (72, 90))
    latent, dense = enlargement.latent(), enlargement.render()
    median = model.decoder.intensity(latent).median().item()
    nowhere, half = (CMSR({6: {2.0: bound}}, dense="never") for bound in (0.0, median))
    assert (enlargement.render(latent, nowhere) - dense).abs().max() < 1e-4
    picture, (stats,) = half.render(model.decoder, latent, enlargement.target, enlargement.cell)
    assert 0.3 < stats.share < 0.8
    assert (picture - dense).abs().amax(dim=1).lt(1e-4).float().mean() > 0.3
