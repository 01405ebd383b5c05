"""Tests of `decompose` and of the functions that convert back."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lmf
from lmf import SRModel, io
from lmf.decoders.bicubic import Bicubic
from lmf.encoders.identity import Identity

from . import corpus

SHAPES = [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4)]
MODES = {"RGB": "RGB", "L": "L", "RGBA": "RGBA", "LA": "LA", "1": "L", "P": "RGB", "I": "I", "CMYK": "RGB"}


def picture(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    top = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    return (np.random.default_rng(0).random(shape) * top).astype(dtype)


@pytest.fixture(scope="module")
def model() -> SRModel:
    return SRModel(Identity(), Bicubic())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_survive_a_round_trip(shape: tuple[int, ...], dtype: str) -> None:
    array = picture(shape, dtype)
    if shape[2:] in ((2,), (4,)):  # invisible colours are replaced
        array[..., -1] = np.maximum(array[..., -1], np.iinfo(dtype).max // 4 + 1 if array.dtype.kind == "u" else 0.25)
    planes, compose = io.decompose(array)
    colour = planes[0]
    assert colour.shape == (1, 3, 5, 7)
    assert colour.dtype == torch.float32
    assert colour.contiguous(memory_format=torch.channels_last).stride() == (105, 1, 21, 3)  # convolutions go by that
    back = compose(planes)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    np.testing.assert_allclose(back.astype(float), array.astype(float), atol=0 if array.dtype.kind == "u" else 2e-3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_tensors_survive_a_round_trip(channels: int, batch: tuple[int, ...]) -> None:
    tensor = torch.rand(*batch, channels, 5, 7, dtype=torch.float64).clamp_min(0.25)
    planes, compose = io.decompose(tensor)
    assert {plane.shape for plane in planes} == {(*(batch or (1,)), 3, 5, 7)}
    back = compose(planes)
    assert back.dtype == torch.float64
    torch.testing.assert_close(back, tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_pil_modes(mode: str, model: SRModel) -> None:
    source = Image.fromarray(picture((6, 8, 3))).convert(mode)
    out = model.upscale(source, scale=2.5)
    assert (out.mode, out.size) == (MODES[mode], (20, 15))


def test_pil_16_bit_and_float_keep_their_depth(model: SRModel) -> None:
    deep = Image.fromarray(np.full((4, 4), 12345, np.uint16))
    assert deep.mode == "I;16"
    out = model.upscale(deep, scale=2.5)
    assert out.mode == "I;16"
    assert (np.asarray(out) == 12345).all()
    assert model.upscale(Image.fromarray(np.full((4, 4), 0.5, np.float32)), scale=2).mode == "F"


def test_transparent_palette_becomes_rgba(model: SRModel) -> None:
    source = Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P")
    source.info["transparency"] = 0
    out = model.upscale(source, scale=2)
    assert out.mode == "RGBA"
    assert np.asarray(out)[..., 3].max() == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_upscale_keeps_the_kind(shape: tuple[int, ...], dtype: str, model: SRModel) -> None:
    out = model.upscale(picture(shape, dtype), scale=2.5)
    assert out.shape == (12, 18, *shape[2:])
    assert out.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_upscale_keeps_batches_and_dtype(dtype: torch.dtype, model: SRModel) -> None:
    out = model.upscale(torch.rand(2, 4, 5, 7).to(dtype), scale=2.5)
    assert out.shape == (2, 4, 12, 18)
    assert out.dtype == dtype


def over(picture: np.ndarray, background: float) -> np.ndarray:
    """Return an RGBA picture over a grey background."""
    colour, alpha = picture[..., :3] / 255, picture[..., 3:] / 255
    return colour * alpha + background * (1 - alpha)


def disc(colour: tuple[int, int, int], hidden: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """Return a disc with a soft edge on a transparent background of colour ``hidden``."""
    y, x = np.mgrid[:24, :24] - 11.5
    alpha = np.clip(8.5 - np.hypot(y, x), 0, 1)
    rgb = np.where(alpha[..., None] > 0, colour, hidden)
    return np.concatenate([rgb, alpha[..., None] * 255], axis=2).round().astype(np.uint8)


@pytest.fixture(scope="module")
def networks() -> dict[str, SRModel]:
    torch.manual_seed(0)
    return {"bicubic": SRModel(Identity(), Bicubic()), "trained": lmf.load("lm_liif_edsr")}


@pytest.mark.parametrize("name", ["bicubic", "trained"])
@pytest.mark.parametrize("scale", [3.3, 0.7])
def test_hidden_colours_do_not_bleed(networks: dict[str, SRModel], name: str, scale: float) -> None:
    white = networks[name].upscale(disc((255, 255, 255)), scale=scale)
    assert over(white, 1).min() >= 250 / 255
    black = networks[name].upscale(disc((0, 0, 0), (255, 255, 255)), scale=scale)
    assert over(black, 0).max() <= 5 / 255
    for hidden in ((0, 255, 0), (9, 3, 200)):
        np.testing.assert_array_equal(networks[name].upscale(disc((255, 255, 255), hidden), scale=scale), white)


@pytest.mark.parametrize("name", ["bicubic", "trained"])
def test_visible_colours_stay(networks: dict[str, SRModel], name: str) -> None:
    out = networks[name].upscale(disc((200, 60, 30), (0, 255, 255)), scale=3)
    seen = out[out[..., 3] > 0][:, :3].astype(int)
    assert np.abs(seen - (200, 60, 30)).max() <= 4


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_enlarged_like_a_grey_picture(networks: dict[str, SRModel], channels: int) -> None:
    array = picture((12, 14, channels))
    out = networks["trained"].upscale(array, scale=2)
    np.testing.assert_array_equal(out[..., -1], networks["trained"].upscale(array[..., -1], scale=2))


@pytest.mark.parametrize("alpha", [255, 128, 0])
@pytest.mark.parametrize("channels", [2, 4])
def test_flat_alpha_costs_nothing(networks: dict[str, SRModel], alpha: int, channels: int) -> None:
    array = picture((12, 14, channels))
    array[..., -1] = alpha
    assert len(io.decompose(array).planes) == 1
    out = networks["trained"].upscale(array, scale=2)
    assert (out[..., -1] == alpha).all()
    plain = networks["trained"].upscale(array[..., :-1], scale=2)
    np.testing.assert_array_equal(out[..., :-1].reshape(plain.shape), plain)


def test_bands_compose_to_the_whole() -> None:
    planes, compose = io.decompose(picture((9, 8, 4)))
    whole = compose(planes)
    parts = [compose([plane[:, :, i : i + 2] for plane in planes]) for i in range(0, 9, 2)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pil_images_keep_what_they_say(mode: str, model: SRModel, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture((6, 8, 3))).convert(mode).save(
        path, exif=corpus.exif(6), icc_profile=corpus.ICC, dpi=(100, 50)
    )
    with Image.open(path) as source:
        out = model.upscale(source, scale=2)
    assert out.info["icc_profile"] == corpus.ICC
    assert out.info["dpi"] == pytest.approx((200, 100), rel=1e-3)
    said = out.getexif()
    assert said[0x010F] == "Maker"
    assert said[0x0112] == 6  # the pixels are not turned
    assert said.get_ifd(0x8769)[0xA002] == 16
    assert said.get_ifd(0x8825)[1] == "N"


def test_grey_is_the_luma() -> None:
    compose = io.decompose(np.zeros((2, 2), np.uint8)).compose
    rgb = picture((2, 2, 3))
    ours = compose([torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255])
    assert np.abs(ours.astype(int) - np.asarray(Image.fromarray(rgb).convert("L"))).max() <= 1


def test_integers_are_rounded_half_up() -> None:
    compose = io.decompose(np.zeros((1, 4, 3), np.uint8)).compose
    values = torch.tensor([0.5, 1.5, 1.49, 254.5]) / 255
    assert compose([values.expand(1, 3, 1, 4)])[0, :, 0].tolist() == [1, 2, 1, 255]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.full((2, 2, 3), np.nan), "finite"),
        (np.full((2, 2, 3), 1.5), r"\[0, 1\], got values from 1.5 to 1.5"),
        (torch.full((3, 2, 2), -0.1), r"\[0, 1\]"),
        (np.zeros((0, 2, 3), np.uint8), r"shape \(0, 2, 3\)"),
        (np.zeros((2, 2, 5), np.uint8), "C = 1 to 4"),
        (np.zeros((1, 2, 2, 3), np.uint8), "H, W"),
        (np.zeros((2, 2), np.int32), "got int32"),
        (np.zeros((2, 2), bool), "got bool"),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(2, 2), r"\(2, 2\)"),
        (torch.zeros(1, 5, 2, 2), "C = 1 to 4"),
        (Image.new("HSV", (2, 2)), "HSV"),
        (Image.fromarray(np.full((2, 2), 70000, np.int32)), "70000"),
        ("photo.png", "got str"),
    ],
)
def test_what_cannot_be_understood_is_refused(wrong: object, message: str) -> None:
    with pytest.raises(io.ImageError, match=message):
        io.decompose(wrong)


def test_masks_stay_flat_beyond_their_edges() -> None:
    """Whatever a network makes of them. A window gives the pixels of the whole."""
    mask = np.zeros((12, 10, 4), np.uint8)
    mask[3:9, 2:8] = 255
    compose = io.decompose(mask).compose
    noise = torch.rand(1, 3, 36, 30, generator=torch.Generator().manual_seed(0))
    whole = compose([noise, noise])[..., 3]
    opaque, clear = np.zeros((36, 30), bool), np.ones((36, 30), bool)
    opaque[12:24, 9:21] = True  # input pixels whose neighbours are all opaque
    clear[6:30, 3:27] = False
    assert (whole[opaque] == 255).all()
    assert (whole[clear] == 0).all()
    edge = ~opaque & ~clear
    grey = (255 * (noise[0] * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0) + 0.5).floor().numpy()
    np.testing.assert_array_equal(whole[edge], grey[edge])
    for (a, b), (c, d) in product([(0, 7), (7, 20), (20, 36)], [(0, 30), (0, 11), (11, 30)]):
        part = compose([noise[:, :, a:b, c:d]] * 2, io.Window(a, c, (36, 30)))[..., 3]
        np.testing.assert_array_equal(part, whole[a:b, c:d])
    np.testing.assert_array_equal(compose([noise[..., :5, :5]] * 2)[..., 3], grey[:5, :5])  # smaller than the input
