"""Tests of LMF decoders with the fused kernels."""

import pytest
import torch
from torch import Tensor

from lmf import kernels
from lmf.decoders import LMLIIF, LMLTE, LMSRNO, LMCiaoSR
from lmf.decoders.modulation import LMFDecoder, ModulatedLatent, ModulatedMLP
from lmf.grid import Grid
from lmf.renderers import Dense

DECODERS = [
    lambda: LMLIIF(8, depth=2, hyper=(16,), skip="bilinear"),
    lambda: LMLIIF(8, width=32, depth=1, hyper=(16,), code_channels=0),
    lambda: LMLTE(8, hidden_dim=32, depth=2, hyper=(16,)),
    lambda: LMLTE(8, hidden_dim=32, depth=2, hyper=(16,), code_channels=0),
    lambda: LMCiaoSR(8, depth=2, hyper=(16,), prenet=(8,), hidden_k=(8,), hidden_v=(8,)),
    lambda: LMSRNO(8, depth=2, channels=16, heads=4),
]


@pytest.fixture(params=DECODERS, ids=["lm_liif", "lm_liif_no_code", "lm_lte", "lm_lte_no_code", "lm_ciaosr", "lm_srno"])
def decoder(request) -> LMFDecoder:
    torch.manual_seed(0)
    return request.param()


def inputs(batch: int = 2) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(batch, 8, 6, 5, generator=g), torch.rand(batch, 3, 6, 5, generator=g) * 2 - 1


def picture(decoder: LMFDecoder, target: Grid) -> Tensor:
    feat, image = inputs()
    cell = decoder.cell(target, (6, 5), 2, feat.device)
    return Dense()(decoder, decoder.latent(feat, image, cell), target, cell)


def test_picture_equals_plain_torch(decoder):
    target = Grid.of(20, 19)
    with torch.no_grad():
        fused = picture(decoder, target)
        with kernels.backend("reference"):
            plain = picture(decoder, target)
    assert decoder.constant_memory
    torch.testing.assert_close(fused, plain, atol=2e-5, rtol=1e-5)


def test_training_step_equals_plain_torch(decoder):
    feat, image = inputs()
    coord = torch.rand(2, 50, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    cell = torch.tensor([[0.1, 0.12], [0.2, 0.3]])

    def gradients() -> list[Tensor]:
        decoder.zero_grad()
        decoder.query(decoder.latent(feat, image, cell), coord, cell).abs().sum().backward()
        return [p.grad.clone() for p in decoder.parameters() if p.grad is not None]

    fused = gradients()
    with kernels.backend("reference"):
        plain = gradients()
    assert len(fused) == len(plain) > 0
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


def test_a_picture_can_be_differentiated(decoder):
    rgb = picture(decoder, Grid.of(7, 9))
    rgb.sum().backward()
    assert all(p.grad is not None for p in decoder.imnet.parameters())


class Doubled(LMLIIF):
    """A decoder of a third party, which doubles its code."""

    def render_input(self, code: Tensor, rel: Tensor, rel_cell: Tensor) -> Tensor:
        return torch.cat([2 * code, rel, rel_cell], dim=-1)


class Inverted(LMLIIF):
    def decode(self, latent: ModulatedLatent, coord: Tensor, cell: Tensor) -> Tensor:
        return -super().decode(latent, coord, cell)


def test_own_ways_of_rendering_are_not_bypassed():
    torch.manual_seed(0)
    plain = LMLIIF(8, depth=2, hyper=(16,))
    doubled, inverted = (kind(8, depth=2, hyper=(16,)) for kind in (Doubled, Inverted))
    for other in (doubled, inverted):
        other.load_state_dict(plain.state_dict())
    target = Grid.of(11, 12)
    with torch.no_grad():
        torch.testing.assert_close(picture(inverted, target), -picture(plain, target))
        expected = picture(doubled, target)
        plain.hypernet.layers[-1].weight[-16:] *= 2  # the code
        plain.hypernet.layers[-1].bias[-16:] *= 2
        torch.testing.assert_close(expected, picture(plain, target), atol=1e-5, rtol=1e-5)


def test_ways_of_rendering_from_a_mixin_are_not_bypassed():
    """Attributes about methods hold only for the class that sets them and what inherits these methods."""

    class Doubles:
        def decode(self, latent, coord, cell):
            return 2 * super().decode(latent, coord, cell)

    class Inverts:
        def render_input(self, code, rel, rel_cell):
            return torch.cat([-code, rel, rel_cell], dim=-1)

    class Squares:
        def forward(self, x, modulation):
            return super().forward(x, modulation).square()

    class Mixed(Doubles, LMLIIF): ...

    class Child(Mixed): ...

    class Behind(LMLIIF, Doubles): ...

    class Stated(Doubles, LMLIIF):
        fused_grids = True

    class Coded(Inverts, LMLIIF): ...

    class SquaredMLP(Squares, ModulatedMLP): ...

    class ChildMLP(SquaredMLP): ...

    assert [c.fused_grids for c in (LMLIIF, Mixed, Child, Behind, Stated)] == [True, False, False, True, True]
    assert (Coded.input_encoding, Mixed.input_encoding, LMLIIF.input_encoding) == (None, "linear", "linear")
    assert [c.fusable for c in (ModulatedMLP, SquaredMLP, ChildMLP)] == [True, False, False]
    torch.manual_seed(0)
    plain, mixed = LMLIIF(8, 8, 2, [16], 4), Mixed(8, 8, 2, [16], 4)
    mixed.load_state_dict(plain.state_dict())
    feat, image, target = torch.rand(1, 8, 5, 6), torch.rand(1, 3, 5, 6), Grid.of(12, 13)
    cell = plain.cell(target, (5, 6), 1, feat.device)
    pictures = [d.render(d.latent(feat, image, cell), target, cell) for d in (plain, mixed)]
    torch.testing.assert_close(2 * pictures[0], pictures[1])


def test_query_compiles_without_a_break():
    torch.manual_seed(0)
    decoder = LMLIIF(8, depth=2, hyper=(16,), skip="bilinear")
    feat, image = inputs()
    coord, cell = torch.rand(2, 9, 2) * 2 - 1, torch.full((2, 2), 0.1)

    def query(feat: Tensor, image: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        return decoder.query(decoder.latent(feat, image, cell), coord, cell)

    compiled = torch.compile(query, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(feat, image, coord, cell), query(feat, image, coord, cell))
