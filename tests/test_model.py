"""Test `SRModel` with every decoder at arbitrary sizes, scales and batch sizes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lmf import SRModel, decoders, encoders
from lmf.decoders.thera import SwinTail
from lmf.grid import Grid
from lmf.renderers import Dense


def thera_pro(channels):
    decoder = decoders.Thera(channels, "pro", 16)
    decoder.refine = SwinTail(channels, embed=12, depths=(2, 2), heads=(2, 2))
    decoder.receptive_field = decoder.refine.receptive_field
    return decoder


TINY = {
    "liif": lambda: decoders.LIIF(8, [16, 16]),
    "metasr": lambda: decoders.MetaSR(8, [16]),
    "lte": lambda: decoders.LTE(8, 16, [16]),
    "lte_plus": lambda: decoders.LTEPlus(8, 16, [16]),
    "ciaosr": lambda: decoders.CiaoSR(8, [16], [16], [16]),
    "diif": lambda: decoders.DIIF(8, [16, 16], [16]),
    "diif_constant": lambda: decoders.DIIF(8, [16, 16], [16], slicing="constant"),
    "lm_liif": lambda: decoders.LMLIIF(8, 8, 2, [16], 4),
    "lm_liif_features": lambda: decoders.LMLIIF(8, 8, 2, [16], 0),
    "lm_lte": lambda: decoders.LMLTE(8, 16, 8, 2, [16], 16),
    "lm_lte_features": lambda: decoders.LMLTE(8, 16, 8, 2, [16], 0),
    "lm_lte_heat": lambda: decoders.LMLTEHeat(8, 16, 8, 2, [16], 16),
    "lm_lte_heat_features": lambda: decoders.LMLTEHeat(8, 16, 8, 2, [16], 0),
    "lm_ciaosr": lambda: decoders.LMCiaoSR(8, 8, 2, [16], [16], [16], [16], 8),
    "lm_ciaosr_features": lambda: decoders.LMCiaoSR(8, 8, 2, [16], [16], [16], [16], 0),
    "thera": lambda: decoders.Thera(8, waves=16),
    "thera_odd": lambda: decoders.Thera(8, waves=5),
    "thera_plus": lambda: decoders.Thera(8, "plus", 16),
    "thera_pro": lambda: thera_pro(8),
    "srno": lambda: decoders.SRNO(8, 16, 4),
    "lm_srno": lambda: decoders.LMSRNO(8, 8, 2, 16, 4, code_channels=4),
    "bicubic": lambda: decoders.Bicubic(8),
}


@pytest.fixture(params=TINY)
def model(request):
    torch.manual_seed(0)
    return SRModel(encoders.EDSR(8, 1), TINY[request.param]()).eval()


def pictures(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.5, 1, 2.7, 30])
def test_any_scale(model, scale):
    size = (round(7 * scale), round(5 * scale))
    out = model.render(pictures(1, 3, 7, 5), size)
    assert out.shape == (1, 3, *size)
    assert out.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (40, 100), (63, 49)])
def test_any_size_and_shape(model, shape):
    out = model.render(pictures(1, 3, *shape), (31, 67))
    assert out.shape == (1, 3, 31, 67)
    assert out.isfinite().all()


@torch.no_grad()
def test_batch_is_its_images_one_by_one(model):
    lr = pictures(2, 3, 8, 6)
    both = model.render(lr, (19, 21))
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], model.render(lr[i : i + 1], (19, 21)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_bands_queries_and_whole_agree(model):
    """Cover fewer queries than latents, unordered coordinates and non-contiguous inputs."""
    lr, size = pictures(2, 6, 3, 8).permute(0, 2, 3, 1), (17, 26)
    target = Grid.of(*size)
    whole = model.render(lr, size)
    model.renderer = Dense(queries=60)
    torch.testing.assert_close(model.render(lr, size), whole, atol=1e-5, rtol=0)
    some = torch.tensor([3, 400, 77, 3, 210])
    coord = target.coord().T.contiguous().T[some].expand(2, -1, 2)
    cell = model.decoder.cell(target, (8, 6), 2, lr.device)
    assert not lr.is_contiguous()
    assert not coord.is_contiguous()
    expected = whole.flatten(2)[:, :, some].transpose(1, 2)
    latent = model.prepare(lr, size).summarised()
    torch.testing.assert_close(model.decoder.query(latent, coord, cell), expected, atol=1e-5, rtol=0)
    if model.decoder.pointwise:
        torch.testing.assert_close(model(lr, coord, cell), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_no_state_between_calls(model):
    a, b = pictures(2, 3, 6, 6).split(1)
    first = model.render(a, (13, 13))
    model.render(b[..., :4], (9, 9))
    assert torch.equal(model.render(a, (13, 13)), first)


def test_every_parameter_learns(model):
    if isinstance(model.decoder, decoders.Bicubic):
        pytest.skip("has no parameters")
    model.train()
    coord, cell = torch.rand(2, 30, 2) * 2 - 1, torch.full((2, 2), 0.1)
    model(pictures(2, 3, 6, 6), coord, cell).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_double_precision(model):
    lr = pictures(1, 3, 6, 6)
    coord, cell = torch.rand(1, 20, 2) * 2 - 1, torch.tensor([[0.1, 0.1]])
    single = model(lr, coord, cell)
    double = model.double()(lr.double(), coord.double(), cell.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=0)


@torch.no_grad()
def test_pictures_in_double_precision(model):
    """Every pixel of a float64 model is computed in float64."""
    lr, size = pictures(1, 3, 6, 5), (17, 14)
    single = model.render(lr, size)
    model.double()
    enlargement = model.prepare(lr.double(), size)
    for renderer in (Dense(), Dense(queries=20)):
        double = enlargement.render(renderer=renderer)
        assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
        torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=0)
        coord = enlargement.target.coord().double()[None]
        if isinstance(model.decoder, decoders.Thera):  # computes places from the numbers of pixels
            coord = torch.cartesian_prod(*((2 * torch.arange(n).double() + 1) / n - 1 for n in size))[None]
        queried = model.decoder.query(enlargement.summarised(), coord, enlargement.cell)
        torch.testing.assert_close(double.flatten(2).mT, queried, atol=1e-12, rtol=0)
    cells = enlargement.target.cells
    assert enlargement.cell.tolist()[0] == pytest.approx([2 / n for n in cells], rel=1e-15)  # none of them is clipped


@torch.no_grad()
def test_clipped_and_free_cells():
    target = Grid.of(80, 120)
    free, clipped = decoders.LIIF(8, [8]), decoders.LMLIIF(8, 8, 1, [8], 4)
    assert free.cell(target, (10, 10), 1, torch.device("cpu")).tolist()[0] == pytest.approx([1 / 40, 1 / 60])
    assert clipped.cell(target, (10, 10), 3, torch.device("cpu")).tolist() == [pytest.approx([1 / 20, 1 / 20])] * 3


@pytest.fixture(params=["lte", "lm_liif", "diif", "ciaosr"])
def padding_model(request):
    torch.manual_seed(0)
    encoder = encoders.SwinIR(8, embed=12, depths=[2], heads=[2])
    return SRModel(encoder, TINY[request.param]()).eval()


@torch.no_grad()
def test_padding_is_padding_by_hand(padding_model):
    """Enlarging 21 x 27 by 3 gives the corner of its 24 x 32 reflection enlarged by 3."""
    lr = pictures(2, 3, 21, 27)
    by_hand = torch.from_numpy(np.pad(lr.numpy(), ((0, 0), (0, 0), (0, 3), (0, 5)), mode="reflect"))
    out = padding_model.render(lr, (63, 81))
    expected = padding_model.render(by_hand, (72, 96))[:, :, :63, :81]
    torch.testing.assert_close(out, expected, atol=2e-4, rtol=0)


@torch.no_grad()
def test_padding_moves_scattered_coordinates_alike(padding_model):
    lr, size = pictures(2, 3, 21, 27), (50, 61)
    target = Grid.of(*size)
    cell = padding_model.decoder.cell(target, (21, 27), 2, lr.device)
    out = padding_model(lr, target.coord().expand(2, -1, 2), cell)
    expected = padding_model.render(lr, size).flatten(2).transpose(1, 2)
    off = (out - expected).abs().amax(-1) > 2e-4
    assert off.float().mean() < 2e-3


@torch.no_grad()
def test_padding_leaves_the_picture_in_place():
    """Padding for the encoder changes the picture only near the padded border."""
    lr = pictures(1, 3, 13, 10)
    plain, padded = encoders.Identity(), encoders.Identity()
    padded.multiple = 8
    a, b = (SRModel(e, decoders.Bicubic(3)).render(lr, (40, 31)) for e in (plain, padded))
    torch.testing.assert_close(a[:, :, :33, :24], b[:, :, :33, :24], atol=1e-4, rtol=0)


def test_widths_must_fit():
    with pytest.raises(ValueError, match="LIIF expects 8 feature channels, EDSR returns 16"):
        SRModel(encoders.EDSR(16, 1), decoders.LIIF(8))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 4, 6, 6), (1, 9, 2), (1, 2)), r"lr must be \(B, 3, h, w\), .* got \(1, 4, 6, 6\), \(1, 9, 2\), \(1, 2\)"),
        (((1, 3, 6, 6), (9, 2), (1, 2)), "coord"),
        (((1, 3, 6, 6), (1, 9, 2), (1, 9, 2)), "cell"),  # one cell per query, as in the released code
    ],
)
def test_says_which_shapes_it_takes(shapes, message):
    model = SRModel(encoders.EDSR(8, 1), decoders.LIIF(8, [8]))
    with pytest.raises(ValueError, match=message):
        model(*(torch.zeros(shape) for shape in shapes))


SMALL = [encoders.EDSR(blocks=1), encoders.RDN(blocks=1, layers=1), encoders.SwinIR(depths=[1], heads=[6])]


@pytest.mark.parametrize("encoder", SMALL, ids=lambda encoder: type(encoder).__name__)
def test_modulations_lie_latent_by_latent(encoder):
    """Modulations are channels-last even if the picture has numpy's layout (h, w, 3)."""
    model = SRModel(encoder, decoders.LMLIIF(64)).eval()
    with torch.inference_mode():
        latent = model.prepare(torch.rand(16, 24, 3).permute(2, 0, 1)[None], (64, 96)).latent()
    assert latent.modulation.stride(-1) == 1


@pytest.mark.parametrize("training", [False, True])
def test_threads_agree_with_one(training):
    torch.manual_seed(0)
    encoder = encoders.SwinIR(8, window=4, embed=8, depths=[2, 2], heads=[2, 2], drop_path=0.5)
    model = SRModel(encoder, decoders.LMLIIF(8, depth=2, hyper=(16,))).train(training)
    pictures = [torch.rand(3, 12 + i, 9, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    alone = [model.upscale(picture, scale=2.5) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda picture: model.upscale(picture, scale=2.5), pictures * 4))
    for expected, found in zip(alone * 4, together, strict=True):
        torch.testing.assert_close(found, expected)
    assert all(module.training is training for module in model.modules())


def test_the_result_of_upscale_can_be_trained_on():
    enlarged = SRModel(encoders.Identity(), decoders.Bicubic()).upscale(torch.rand(1, 3, 5, 7), scale=2)
    assert not enlarged.is_inference()
    factor = torch.ones((), requires_grad=True)
    (enlarged * factor).sum().backward()
    assert factor.grad == enlarged.sum()
