"""Tests of the self-ensemble against flips and rotations by numpy."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from lmf import SRModel, checkpoint, io
from lmf.app import cli
from lmf.inference import files, tiling
from lmf.renderers import CMSR

from ..test_model import TINY
from .test_tiling import ENCODERS, build, picture

SMALL = {
    "encoder": {"_target_": "lmf.encoders.EDSR", "out_channels": 8, "blocks": 1},
    "decoder": {"_target_": "lmf.decoders.LMLIIF", "in_channels": 8, "depth": 2, "hyper": [12]},
}


def laid(array: np.ndarray, turns: int, mirror: bool) -> np.ndarray:
    """Mirror and rotate the last two axes."""
    return np.ascontiguousarray(np.rot90(array[..., ::-1] if mirror else array, turns, (-2, -1)))


def laid_back(array: np.ndarray, turns: int, mirror: bool) -> np.ndarray:
    array = np.rot90(array, -turns, (-2, -1))
    return array[..., ::-1] if mirror else array


def expected(model: SRModel, lr: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return the mean over the eight flips and rotations, (B, 3, H, W) float64."""
    pictures = []
    for turns, mirror in itertools.product(range(4), (False, True)):
        turned = torch.from_numpy(laid(lr.numpy(), turns, mirror))
        with torch.inference_mode():
            out = model.render(turned, size[::-1] if turns % 2 else size)
        pictures.append(laid_back(out.numpy().astype(np.float64), turns, mirror))
    return np.mean(pictures, axis=0)


@pytest.mark.parametrize("decoder", TINY)
def test_the_mean_over_flips_and_rotations(decoder) -> None:
    """In float64, so that any difference of the method shows, with another scale along each axis."""
    model, lr = build(decoder).double(), picture(9, 14).double()
    with torch.inference_mode():
        ours = model.render(lr, (25, 61), self_ensemble=True)
        single = model.render(lr, (25, 61))
    wanted = expected(model, lr, (25, 61))
    np.testing.assert_allclose(ours, wanted, atol=1e-6)  # coordinates are float32
    assert decoder == "bicubic" or np.abs(single.numpy() - wanted).max() > 1e-3


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("size", [(90, 38), (150, 77), (31, 13)])
def test_bands_are_the_whole_picture(monkeypatch, encoder, size) -> None:
    """Strips of rotated pictures are columns; 45 x 19 is padded to 48 x 24 for SwinIR."""
    monkeypatch.setattr(tiling, "LATENTS", 120)
    monkeypatch.setattr(tiling, "PIXELS", 500)
    model, lr = build(encoder=encoder), picture(45, 19)
    with torch.inference_mode():
        bands = list(tiling.bands(model, lr, size, 12, self_ensemble=True))
    assert len(bands) > 2
    np.testing.assert_allclose(torch.cat(bands, dim=2), expected(model, lr, size), atol=3e-5)


@pytest.mark.parametrize("decoder", TINY)
def test_bands_of_every_decoder(monkeypatch, decoder) -> None:
    monkeypatch.setattr(tiling, "LATENTS", 60)
    monkeypatch.setattr(tiling, "PIXELS", 300)
    monkeypatch.setattr(tiling, "SUMMED", 700)
    model, lr = build(decoder), torch.cat([picture(15, 11), picture(15, 11, seed=2)])
    with torch.inference_mode():
        bands = list(tiling.bands(model, lr, (41, 32), 6, self_ensemble=True))
    np.testing.assert_allclose(torch.cat(bands, dim=2), expected(model, lr, (41, 32)), atol=3e-5)


def test_what_is_held_is_bounded(monkeypatch) -> None:
    """One sum of at most `SUMMED` pixels and the pieces of one flip or rotation."""
    monkeypatch.setattr(tiling, "LATENTS", 120)
    monkeypatch.setattr(tiling, "PIXELS", 500)
    monkeypatch.setattr(tiling, "SUMMED", 3000)
    model, tiles, strips = build(), [], []
    features, latent = model.features, model.decoder.latent
    monkeypatch.setattr(model, "features", lambda x: [features(x), tiles.append(x.shape[-2:])][0])
    monkeypatch.setattr(model.decoder, "latent", lambda f, *a: [latent(f, *a), strips.append(f.shape[-2:])][0])
    with torch.inference_mode():
        bands = [band.shape[-2:] for band in tiling.bands(model, picture(70, 40), (280, 160), 10, self_ensemble=True)]
    assert all(h * w <= 3000 for h, w in bands)
    overlap = 2 * (model.encoder.receptive_field + model.decoder.receptive_field + 1)
    assert max(max(size) for size in tiles) <= 10 + overlap
    assert max(min(size) for size in strips) <= 120 // 40 + 2 * (2 + 1)
    assert {(h > w) for h, w in strips} == {True, False}


@pytest.mark.parametrize("tile", [5, 64])
def test_multi_scale_rendering(tile) -> None:
    model, lr = build(), picture(13, 18)
    with torch.inference_mode():
        strength = model.decoder.intensity(model.prepare(lr, (65, 90)).latent())
    model.renderer = CMSR({5: {1: strength.quantile(0.5).item(), 5: 10.0}}, dense="never")
    wanted = expected(model, lr, (65, 90))
    with torch.inference_mode():
        whole = model.render(lr, (65, 90), self_ensemble=True)
        bands = list(tiling.bands(model, lr, (65, 90), tile, self_ensemble=True))
    np.testing.assert_allclose(whole, wanted, atol=3e-5)
    np.testing.assert_allclose(torch.cat(bands, dim=2), wanted, atol=3e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)])
def test_pictures_of_every_kind(tmp_path, dtype, channels) -> None:
    """Arrays, files and the command give one result, which for opaque colours is that of numpy."""
    top = np.iinfo(dtype).max
    array = (np.random.default_rng(0).random((12, 17, *channels)) * top).astype(dtype)
    model = checkpoint.build(SMALL).eval()
    ours = model.upscale(array, scale=2.3, self_ensemble=True)
    assert ours.shape == (28, 39, *channels)
    assert ours.dtype == array.dtype
    assert (ours != model.upscale(array, scale=2.3)).any()
    io.write(tmp_path / "a.png", array)
    checkpoint.save(model, tmp_path / "m.safetensors")
    files.upscale_files(model, str(tmp_path / "a.png"), str(tmp_path / "b.png"), scale=2.3, self_ensemble=True)
    np.testing.assert_allclose(io.read(tmp_path / "b.png").astype(int), ours.astype(int), atol=1 if top < 256 else 4)
    arguments = [str(tmp_path / "a.png"), "--scale", "2.3", "--model", str(tmp_path / "m.safetensors")]
    cli.main(["upscale", *arguments, "--self-ensemble", "--device", "cpu", "-o", str(tmp_path / "c.png")])
    np.testing.assert_array_equal(io.read(tmp_path / "c.png"), io.read(tmp_path / "b.png"))
    if channels == (3,):
        lr = torch.from_numpy(array.astype(np.float32) / top * 2 - 1).permute(2, 0, 1)[None]
        wanted = (expected(model, lr, (28, 39))[0].transpose(1, 2, 0) / 2 + 0.5).clip(0, 1) * top
        np.testing.assert_allclose(ours, wanted, atol=0.51 if top < 256 else 2)


def test_a_pil_image() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 11, 3), dtype=np.uint8))
    model = build()
    out = model.upscale(image, size=(20, 30), self_ensemble=True)
    np.testing.assert_array_equal(np.asarray(out), model.upscale(np.asarray(image), size=(20, 30), self_ensemble=True))


def test_gradients_pass() -> None:
    model, lr = build(), picture(6, 7).requires_grad_()
    model.render(lr, (12, 15), self_ensemble=True).sum().backward()
    assert lr.grad is not None
    assert lr.grad.abs().min() > 0
