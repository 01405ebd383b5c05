"""LM-LTE with heat decay: what its latents are, at which scales they differ, and what stays of LM-LTE."""

import math

import pytest
import torch

from lmf import SRModel, decoders, encoders, kernels
from lmf.benchmark.cost import count
from lmf.decoders.lte import fourier
from lmf.grid import Grid


def pair(**options):
    torch.manual_seed(0)
    plain = decoders.LMLTE(6, 16, 8, 2, [12], **options)
    heat = decoders.LMLTEHeat(6, 16, 8, 2, [12], **options)
    heat.load_state_dict(plain.state_dict(), strict=False)
    return plain.eval(), heat.eval()


def latents(decoder, size, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    feat, image = torch.randn(1, 6, 5, 7, generator=generator), torch.rand(1, 3, 5, 7, generator=generator)
    cell = decoder.cell(Grid.of(*size), (5, 7), 1, feat.device, dtype)
    return decoder.latent(feat.to(dtype), image.to(dtype), cell), cell


def test_diffusivity_starts_as_in_thera():
    """In units in which a latent cell spans 1, k = sqrt(ln 4) / (2 pi^2) and the frequencies are in radians.

    A wave of one period per LR pixel, with 2 pi radians, is damped alike at x1 by both formulas.
    """
    theirs = math.exp(-((2 * math.pi) ** 2) * math.sqrt(math.log(4)) / (2 * math.pi**2))
    _, heat = pair(code_channels=4)
    waves = torch.tensor([[[[1.0, 1.0, 1.0, 0.0]]]])  # two amplitudes, one frequency along y; a cell spans 2, so f = 1
    found = heat.decayed(waves, torch.tensor([[2.0, 2.0]]))
    assert found[0, 0, 0].tolist() == pytest.approx([theirs, theirs, 1, 0])


@torch.no_grad()
@pytest.mark.parametrize("code", [0, 8])
@pytest.mark.parametrize("scale", [1, 2.6, 4, 9])
def test_amplitudes_decay_and_all_else_is_lm_lte(code, scale):
    plain, heat = pair(code_channels=code)
    heat.log_diffusivity.fill_(math.log(0.7))
    size = (round(5 * scale), round(7 * scale))
    (before, clipped), (after, cell) = latents(plain, size), latents(heat, size)
    assert torch.equal(after.modulation, before.modulation)
    n = before.code.shape[-1] // 2
    coef, freq = before.code.split(n, dim=-1)
    fy, fx = freq.chunk(2, dim=-1)
    damped = torch.exp(-(math.pi**2) * 0.7 * ((fy / size[0] * 5) ** 2 + (fx / size[1] * 7) ** 2))
    torch.testing.assert_close(after.code, torch.cat([coef * damped.repeat(1, 1, 1, 2), freq], dim=-1))
    rel = clipped * torch.tensor([5.0, 7.0]), cell * torch.tensor([5.0, 7.0])
    torch.testing.assert_close(heat.extra(rel[1]), plain.extra(rel[0]))  # phases of the clipped cell


@torch.no_grad()
def test_a_wave_of_the_renderer_is_averaged_over_the_pixel():
    """Decay is what the mean over a Gaussian of variance 2 k (r / 2)^2 leaves of a wave."""
    _, heat = pair(code_channels=4)
    k, r = heat.log_diffusivity.exp().item(), 0.8
    waves = torch.tensor([[[[1.0, 1.0, 1.3, -0.6]]]])
    damped = heat.decayed(waves, torch.tensor([[r, r]]))
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(400_000, 2, generator=g, dtype=torch.float64) * math.sqrt(2 * k) * r / 2
    at = torch.tensor([0.3, -0.4], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    mean = fourier(waves.double()[0, 0], at + noise, zero).mean(dim=0)
    torch.testing.assert_close(fourier(damped.double()[0, 0], at[None], zero)[0], mean, atol=3e-3, rtol=0)


@torch.no_grad()
def test_latents_differ_between_all_scales():
    plain, heat = pair()
    assert torch.equal(latents(plain, (25, 35))[0].code, latents(plain, (40, 56))[0].code)
    assert not torch.equal(latents(heat, (25, 35))[0].code, latents(heat, (40, 56))[0].code)


@torch.no_grad()
def test_fused_rendering():
    _, heat = pair(code_channels=8)
    latent, cell = latents(heat, (31, 44))
    fused = heat.render(latent, Grid.of(31, 44), cell)
    with kernels.backend("reference"):
        plain = heat.render(latent, Grid.of(31, 44), cell)
    assert heat.constant_memory
    torch.testing.assert_close(fused, plain, atol=2e-5, rtol=1e-5)


def test_cost_is_that_of_lm_lte():
    kinds = decoders.LMLTE(), decoders.LMLTEHeat()
    plain, heat = (count(SRModel(encoders.EDSR(blocks=1), kind), (18, 32), scale=6) for kind in kinds)
    assert (heat.latent_macs, heat.render_macs) == (plain.latent_macs, plain.render_macs)
    assert heat.decoder_params == plain.decoder_params + 1
