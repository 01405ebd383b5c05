"""Tests of Thera beside the authors' outputs (tests/test_thera.py): derivatives, training and any factors."""

import math

import pytest
import torch

from lmf import SRModel, decoders, encoders
from lmf.decoders.thera import SwinTail
from lmf.grid import Grid
from lmf.io.colour import to_network
from lmf.training.module import SRModule

MEAN = torch.tensor([0.4488, 0.4371, 0.4040])


def made(waves=16, **options):
    torch.manual_seed(0)
    return decoders.Thera(8, waves=waves, **options).double()


def latent_of(decoder, size=(5, 7), batch=2):
    g = torch.Generator().manual_seed(1)
    feat, image = (torch.rand(batch, c, *size, generator=g, dtype=torch.float64) * 2 - 1 for c in (8, 3))
    return decoder.latent(feat, image, torch.ones(batch, 2))


@torch.no_grad()
@pytest.mark.parametrize("size", [(10, 7), (5, 35), (13, 20)], ids=str)
def test_a_picture_with_different_factors(size):
    """Every pixel as the paper defines it, with the geometric mean of both factors as its scale."""
    decoder = made()
    latent = latent_of(decoder)
    cell = torch.tensor([[2 / n for n in size]] * 2, dtype=torch.float64)
    picture = decoder.render(latent, Grid.of(*size), cell)
    time = 1 / (size[0] / 5 * size[1] / 7)
    frequencies, k = decoder.frequencies, decoder.diffusivity
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = (i + 0.5) * 5 / size[0], (j + 0.5) * 7 / size[1]
            row, col = math.floor(y), math.floor(x)
            amplitudes, phase = latent.waves[:, row, col].view(2, 4, 16).split((3, 1), dim=1)
            angle = frequencies[0] * (y - row - 0.5) + frequencies[1] * (x - col - 0.5) + phase[:, 0]
            wave = angle.sin() * torch.exp(-(frequencies[0] ** 2 + frequencies[1] ** 2) * k * time)
            field = (amplitudes * wave[:, None]).sum(2)
            expected = field + 2 * MEAN + latent.image[:, :, row, col]
            torch.testing.assert_close(picture[:, :, i, j], expected, atol=1e-6, rtol=0)


def test_derivatives_are_those_of_the_field():
    decoder = made()
    latent = latent_of(decoder)
    coord = torch.rand(2, 9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    coord.requires_grad_()
    rgb = decoder.query(latent, coord, torch.zeros(2, 2, dtype=torch.float64))  # no time for diffusion
    jacobian = decoder.jacobian(latent, coord)
    for channel in range(3):
        slope = torch.autograd.grad(rgb[..., channel].sum(), coord, retain_graph=True)[0]
        torch.testing.assert_close(jacobian[:, :, channel], slope / torch.tensor([2.5, 3.5]), atol=1e-9, rtol=0)


def test_gradients_of_the_penalty():
    decoder = made(waves=3, variation=0.5)
    coord = torch.rand(2, 9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    feat, image = torch.rand(2, 8, 5, 7).double(), torch.rand(2, 3, 5, 7).double()

    def penalty(weight, bias, frequencies):
        state = {"hypernet.weight": weight, "hypernet.bias": bias, "frequencies": frequencies}
        run = torch.func.functional_call
        return run(Penalty(decoder), {f"decoder.{k}": v for k, v in state.items()}, (feat, image, coord))

    leaves = [decoder.hypernet.weight, decoder.hypernet.bias, decoder.frequencies]
    assert torch.autograd.gradcheck(penalty, leaves, fast_mode=True)
    latent = decoder.latent(feat, image, torch.ones(2, 2))
    assert penalty(*leaves).item() == pytest.approx(0.5 * decoder.jacobian(latent, coord).abs().mean().item())


class Penalty(torch.nn.Module):
    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, feat, image, coord):
        return self.decoder.penalty(self.decoder.latent(feat, image, torch.ones(2, 2)), coord)


@pytest.mark.parametrize("name", ["thera", "liif"])
def test_training_adds_the_penalty(name):
    torch.manual_seed(0)
    decoder = decoders.Thera(8, variation=0.3) if name == "thera" else decoders.LIIF(8, [16])
    model = SRModel(encoders.EDSR(8, 1), decoder)
    module = SRModule(model, baseline=False)
    batch = {
        "lr": torch.rand(2, 3, 6, 6),
        "coord": torch.rand(2, 9, 2) * 2 - 1,
        "cell": torch.full((2, 2), 0.1),
        "target": torch.rand(2, 9, 3),
    }
    lr = to_network(batch["lr"])
    expected = (model(lr, batch["coord"], batch["cell"]) - to_network(batch["target"])).abs().mean()
    if name == "thera":
        latent = model.latent(lr, batch["cell"])
        expected = expected + 0.3 * decoder.jacobian(latent, batch["coord"]).abs().mean()
    module.log = lambda *args, **options: None
    torch.testing.assert_close(module.training_step(batch, 0), expected)


def test_the_encoder_receives_standardised_pictures():
    seen = []
    model = SRModel(encoders.Identity(), decoders.Thera(3))
    model.encoder.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    picture = torch.rand(1, 3, 4, 5)
    model.features(to_network(picture))
    torch.testing.assert_close(seen[0], (picture - MEAN[:, None, None]) / (0.25 + 1e-5) ** 0.5)


def test_waves_begin_as_in_the_paper():
    torch.manual_seed(0)
    decoder = decoders.Thera(waves=4096)
    radius = decoder.frequencies.detach().square().sum(0).sqrt() / (16 * math.pi)
    assert radius.max() < 1
    assert radius.square().mean().item() == pytest.approx(0.5, abs=0.02)  # uniform in the disc
    assert decoder.frequencies.detach().mean(1).abs().max() < 2
    assert decoder.diffusivity.item() == pytest.approx(0.0596483, rel=1e-5)


def test_how_far_the_tails_reach():
    reach = {tail: decoders.Thera(8, tail).receptive_field for tail in ("air", "plus", "pro")}
    assert reach == {"air": 0, "plus": 16, "pro": 3 + (7 + 6 * 4 + 1) + (7 + 5 * 4 + 1)}
    assert decoders.Thera(8, "pro").multiple == 8


def mirrored(n):
    """0 .. n - 1 to a multiple of 8, bouncing off both ends."""
    there_and_back = [*range(n), *range(n - 2, 0, -1)]
    return [there_and_back[i % len(there_and_back)] for i in range(math.ceil(n / 8) * 8)]


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (3, 17), (16, 9)], ids=str)
def test_the_attention_tail_keeps_sizes(size):
    """Rows and columns that only pad do not come back, and a padded picture is the reflected one."""
    torch.manual_seed(0)
    tail = SwinTail(4, 6, embed=12, depths=(2,), heads=(2,)).eval()
    feat = torch.rand(1, 4, *size)
    out = tail(feat)
    assert out.shape == (1, 6, *size)
    rows, cols = (mirrored(n) for n in size)
    whole = tail(feat[:, :, rows][..., cols])
    torch.testing.assert_close(out, whole[:, :, : size[0], : size[1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tail": "max"}, "tail must be one of .*'air', 'plus', 'pro'.*, got 'max'"),
        ({"waves": 0}, "waves must be at least 1"),
        ({"variation": -1}, "variation at least 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        decoders.Thera(**options)
