import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from lmf import decoders, encoders, grid
from lmf.decoders.base import Linear

CONF = Path(__file__).resolve().parents[2] / "conf"
PUBLISHED = {
    "LIIF": 346_883,
    "MetaSR": 445_120,
    "LTE": 493_827,
    "LTEPlus": 493_827,
    "CiaoSR": 1_428_614,
    "LMLIIF": 165_651,
    "LMLTE": 270_467,
    "LMCiaoSR": 734_998,
    "SRNO": 794_883,
}


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts(name):
    assert parameters(getattr(decoders, name)()) == PUBLISHED[name]


def test_parameter_count_of_lm_liif_for_swinir():
    assert parameters(decoders.LMLIIF(depth=8)) == 179_571


@pytest.mark.parametrize("path", sorted(CONF.glob("[de][en]coder/*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_configs_state_every_size_and_the_published_value(path):
    config = yaml.safe_load(path.read_text())
    package, name = config.pop("_target_").rsplit(".", 1)
    cls = getattr({"lmf.decoders": decoders, "lmf.encoders": encoders}[package], name)
    options = inspect.signature(cls).parameters
    assert list(config) == list(options)
    for key, value in config.items():
        if not str(value).startswith("${") and path.stem not in ("edsr_light", "edsr_plus"):  # of no paper
            default = options[key].default
            assert value == (list(default) if isinstance(default, tuple) else default), key


def test_lte_plus_is_lte_with_its_frequencies_by_axis():
    torch.manual_seed(0)
    lte, plus = decoders.LTE(4, 8, [8]), decoders.LTEPlus(4, 8, [8])
    state = lte.state_dict()
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    plus.load_state_dict(state | {f"freq.{k}": state[f"freq.{k}"][order] for k in ("weight", "bias")})
    feat, image = torch.rand(1, 4, 5, 6), torch.rand(1, 3, 5, 6)
    coord, cell = torch.rand(1, 40, 2) * 2 - 1, torch.tensor([[0.1, 0.2]])
    a, b = (d.query(d.latent(feat, image, cell), coord, cell) for d in (lte, plus))
    torch.testing.assert_close(a, b)
    assert not torch.equal(lte.freq.weight, plus.freq.weight)


@torch.no_grad()
def test_ciaosr_neighbours_follow_its_own_shift():
    """CiaoSR shifts by (1 - cell) / (n - 1), slightly more than the half latent cell of the ensemble.

    Near the centre of a latent the two select different neighbours.
    """
    torch.manual_seed(0)
    decoder = decoders.CiaoSR(4, [8], [8], [8])
    latent = decoder.latent(torch.rand(1, 4, 4, 4), torch.rand(1, 3, 4, 4), torch.tensor([[0.01, 0.01]]))
    seen = []
    decoder.imnet_k.register_forward_hook(lambda module, args, out: seen.append(args[0][0, 0, -4:-2]))
    decoder.decode(latent, torch.tensor([[[0.24, 0.26]]]), torch.tensor([[0.01, 0.01]]))
    rel = torch.stack(seen).numpy()  # one row per neighbour
    step = (1 - 0.01) / 3
    centres = np.array([-0.75, -0.25, 0.25, 0.75])
    nearest = [[centres[np.abs(centres - (c + sign * step)).argmin()] for sign in (-1, 1)] for c in (0.24, 0.26)]
    expected = [[(0.24 - y) * 4, (0.26 - x) * 4] for y in nearest[0] for x in nearest[1]]
    np.testing.assert_allclose(rel, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cls": decoders.LTE, "hidden_dim": 7}, "even"),
        ({"cls": decoders.LMLTE, "code_channels": 6}, "multiple of 4, got 6"),
        ({"cls": decoders.LIIF, "skip": "cubic"}, "skip must be one of"),
        ({"cls": decoders.DIIF, "slicing": "fixed"}, "slicing must be one of"),
        ({"cls": decoders.DIIF, "fine": []}, "at least one width"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        options.pop("cls")(**options)


@pytest.mark.parametrize("shape", [(2, 5, 7, 24), (3, 11, 24), (24,), (2, 0, 24)], ids=str)
def test_linear_layers_are_linear_layers(shape):
    torch.manual_seed(0)
    layer, plain = Linear(24, 40), nn.Linear(24, 40)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(shape)
    for dtype in (torch.float32, torch.float64):
        results = []
        for module in (layer.to(dtype), plain.to(dtype)):
            own = x.to(dtype, copy=True).requires_grad_()
            module.zero_grad()
            out = module(own)
            (out * torch.linspace(-1, 1, 40)).square().sum().backward()
            results.append((out, own.grad, module.weight.grad, module.bias.grad))
        for a, b in zip(*results, strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_latents_are_frozen_and_channels_last():
    feat, image, cell = torch.rand(1, 8, 5, 7), torch.rand(1, 3, 5, 7), torch.tensor([[0.1, 0.1]])
    for decoder in (decoders.LIIF(8), decoders.LTE(8), decoders.CiaoSR(8), decoders.DIIF(8), decoders.LMLTE(8)):
        latent = decoder.latent(feat, image, cell)
        with pytest.raises(AttributeError):
            latent.size = (1, 1)
        for name, value in vars(latent).items():
            if isinstance(value, torch.Tensor) and name != "image":
                assert value.shape[:3] == (1, 5, 7), name
    assert grid.take(decoders.LTE(8).latent(feat, image, cell).waves, torch.tensor([[34]])).shape == (1, 1, 512)
