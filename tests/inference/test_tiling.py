"""Tests that pictures rendered in tiles, strips and bands equal those rendered as a whole."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from lmf import SRModel, decoders, encoders, io, kernels
from lmf.app import pipeline
from lmf.checkpoint import save
from lmf.grid import Grid, Strip, axis
from lmf.inference import files, tiling
from lmf.io import tiff_writer
from lmf.precision import autocast

from ..conftest import TINY as TINY_RUN
from ..test_model import TINY


class Tiled(encoders.EDSR):
    """An encoder without stages."""

    def stages(self):
        return ()


ENCODERS = {
    "tiled": lambda: Tiled(8, 2),
    "edsr": lambda: encoders.EDSR(8, 2),
    "rdn": lambda: encoders.RDN(8, 2, 2, 4),
    "swinir": lambda: encoders.SwinIR(8, window=4, embed=8, depths=[2, 2], heads=[2, 2]),
}
LOCAL = [name for name in TINY if TINY[name]().receptive_field is not None]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(tiling, "LATENTS", 120)
    monkeypatch.setattr(tiling, "PIXELS", 500)


def build(decoder="lm_liif", encoder="edsr"):
    torch.manual_seed(0)
    return SRModel(ENCODERS[encoder](), TINY[decoder]()).eval()


def picture(h, w, seed=1):
    return torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def largest_difference(model, lr, size, tile):
    with torch.inference_mode():
        bands = list(tiling.bands(model, lr, size, tile))
        assert len(bands) > 3
        return (torch.cat(bands, dim=2) - model.render(lr, size)).abs().max().item()


@pytest.mark.parametrize("scale", [0.6, 3, 2.6])  # at x3 pixel centres coincide with latent centres
@pytest.mark.parametrize("decoder", LOCAL)
def test_as_whole_for_every_decoder(decoder, scale):
    size = (round(45 * scale), round(19 * scale))
    assert largest_difference(build(decoder), picture(45, 19), size, tile=12) < 2e-5


@pytest.mark.parametrize("decoder", ["ciaosr", "lm_ciaosr", "diif", "srno", "lm_srno"])
def test_as_whole_for_decoders_that_look_everywhere(decoder):
    assert largest_difference(build(decoder), picture(23, 17), (60, 44), tile=9) < 2e-5


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("scale", [2, 3.3])
def test_as_whole_for_every_encoder(encoder, scale):
    """55 rows are padded to 56 for SwinIR, and tiles begin at its windows."""
    size = (round(55 * scale), round(26 * scale))
    assert largest_difference(build(encoder=encoder), picture(55, 26), size, tile=13) < 2e-5


def test_strips_in_bfloat16():
    """Strips compute in the precision that was chosen for the encoder, as a whole picture does."""
    model, lr, size = build(), picture(45, 19), (90, 38)
    with torch.inference_mode(), kernels.encoder("bf16"):
        bands, whole = torch.cat(list(tiling.bands(model, lr, size, 12)), dim=2), model.render(lr, size)
    with torch.inference_mode():
        exact = model.render(lr, size)
    assert bands.dtype == torch.float32
    assert (bands - whole).abs().max() < 2e-5 < 1e-4 < (bands - exact).abs().max()


def test_an_encoder_with_another_forward():
    """It does not inherit the stages of the one that it derives from."""

    class Louder(encoders.EDSR):
        def forward(self, image):
            return 3 * super().forward(image)

    model = SRModel(Louder(8, 2), TINY["lm_liif"]()).eval()
    assert largest_difference(model, picture(45, 19), (90, 38), tile=12) < 2e-5


def test_at_high_scales_and_in_batches():
    lr = torch.cat([picture(7, 5), picture(7, 5, seed=2)])
    assert largest_difference(build(), lr, (210, 151), tile=3) < 2e-5


@pytest.mark.parametrize(("encoder", "part"), [("tiled", "encoder"), ("tiled", "decoder"), ("edsr", "decoder")])
def test_less_overlap_would_show(encoder, part):
    model = build(encoder=encoder)
    getattr(model, part).receptive_field = 0
    assert largest_difference(model, picture(45, 19), (90, 38), tile=12) > 1e-3


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_look_as_far_as_they_say(encoder):
    model = ENCODERS[encoder]().eval().double()
    at, n = 48, 96
    lr = torch.rand(1, 3, n, n, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    seen = 0
    for offset in range(4):  # to SwinIR, not all places in a window are alike
        (grad,) = torch.autograd.grad(model(lr)[0, :, at + offset, at].sum(), lr)
        rows = grad.abs().sum((0, 1, 3)).gt(1e-40).nonzero()[:, 0]
        seen = max(seen, at + offset - rows.min().item(), rows.max().item() - at - offset)
    assert seen == model.receptive_field if encoder != "swinir" else seen <= model.receptive_field < seen + 8


@pytest.mark.parametrize("decoder", LOCAL)
def test_decoders_look_as_far_as_they_say(decoder):
    model, n = TINY[decoder]().eval(), 11
    feat, lr = (torch.rand(1, c, n, n, requires_grad=True) for c in (model.in_channels, 3))
    cell = torch.full((1, 2), 2 / (3 * n))
    latent = model.latent(feat, lr, cell)
    for place in (5 - 0.49, 5.0, 5 + 0.49):
        coord = torch.full((1, 1, 2), -1 + (2 * place + 1) / n)
        grads = torch.autograd.grad(model.query(latent, coord, cell).sum(), (feat, lr), None, True, allow_unused=True)
        seen = sum(g.abs().sum((0, 1)) for g in grads if g is not None)
        rows, cols = seen.nonzero().unbind(1)
        assert max((rows - 5).abs().max(), (cols - 5).abs().max()) <= model.receptive_field


def test_pieces_are_bounded(monkeypatch):
    """No part receives more than a tile, a strip or a band, whatever the size of the picture."""
    model = build(encoder="tiled")
    tiles, strips, bands = [], [], []
    features, latent = model.features, model.decoder.latent
    monkeypatch.setattr(model, "features", lambda x: [features(x), tiles.append(x.shape[-2:])][0])
    monkeypatch.setattr(model.decoder, "latent", lambda f, *a: [latent(f, *a), strips.append(f.shape[-2:])][0])
    with torch.inference_mode():
        bands = [band.shape[-2:] for band in tiling.bands(model, picture(70, 40), (280, 160), tile=10)]
    overlap = 2 * (model.encoder.receptive_field + model.decoder.receptive_field + 1)
    assert max(max(size) for size in tiles) <= 10 + overlap
    assert max(h for h, _ in strips) <= 120 // 40 + 2 * (2 + 1)
    assert max(h * w for h, w in bands) <= 500


def test_strips_are_bounded(monkeypatch):
    """A stage receives a strip and the lines around it."""
    model, seen = build(), []
    stages = [
        replace(stage, run=lambda *x, run=stage.run: [run(*x), seen.append(x[0].shape[2:])][0])
        for stage in model.encoder.stages()
    ]
    monkeypatch.setattr(model.encoder, "stages", lambda: stages)
    with torch.inference_mode():
        list(tiling.bands(model, picture(70, 40), (280, 160), tile=20))
    assert len(seen) == 4 * 7
    assert {w for _, w in seen} == {40}
    assert max(h for h, _ in seen) <= 20 * 20 // 40 + model.encoder.receptive_field + 2  # the last has what is left


def test_a_small_picture_goes_through_whole(monkeypatch):
    model, sizes = build(), []
    encoder = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda x: [encoder(x), sizes.append(x.shape[-2:])][0])
    with torch.inference_mode():
        list(tiling.bands(model, picture(20, 16), (40, 32), tile=20))
    assert sizes == [(20, 16)]


def test_a_strip_keeps_coordinates_relative_to_rows():
    """Centres that coincide in the whole picture coincide in the strip, also where rounding decides."""
    whole = Grid((3 * 61, 5), (3 * 40, 3 * 61), (0, 5))
    strip = Strip(38, 61, 61)
    y, own = whole.axes()[0], Grid(whole.cells, whole.rows, whole.cols, strip).axes()[0]
    row = torch.arange(40, 61).repeat_interleave(3)
    before = (y - axis(61)[row]) * 61
    after = (own - axis(23)[row - 38]) * 23
    torch.testing.assert_close(after, before, atol=5e-6, rtol=0)
    assert torch.equal(after == 0, before == 0)
    np.testing.assert_allclose(own, ((np.arange(120, 183) + 0.5) / 3 - 38) * 2 / 23 - 1, atol=1e-5)
    assert Grid(whole.cells, whole.rows, whole.cols, strip).cell == pytest.approx((2 / (3 * 23), 2 / 5))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)])
def test_files_written_in_bands(tmp_path, suffix, dtype, channels):
    top = np.iinfo(dtype).max
    array = (np.random.default_rng(0).random((620, 450, *channels)) * top).astype(dtype)  # several strips of TIFF
    path = tmp_path / f"a{suffix}"
    io.write_pages(path, [io.Page((array[i : i + 7] for i in range(0, 620, 7)), array.shape, array.dtype)])
    np.testing.assert_array_equal(io.read(path), array)
    if dtype == "uint8":
        np.testing.assert_array_equal(np.asarray(Image.open(path)), array)
    elif suffix == ".tif":
        np.testing.assert_array_equal(tifffile.imread(path), array)


def test_large_tiff_is_bigtiff(tmp_path, monkeypatch):
    array = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    monkeypatch.setattr(tiff_writer, "_CLASSIC", 100)
    io.write(tmp_path / "a.tif", array)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff
        np.testing.assert_array_equal(file.asarray(), array)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_failure_in_the_middle_leaves_nothing(tmp_path, suffix):
    def bands():
        yield np.zeros((4, 6, 3), np.uint8)
        raise OSError(28, "No space left on device")

    with pytest.raises(io.ImageError, match="No space left"):
        io.write_pages(tmp_path / f"a{suffix}", [io.Page(bands(), (8, 6, 3), np.dtype(np.uint8))])
    assert not os.listdir(tmp_path)


def test_a_terminated_enlargement_leaves_nothing(tmp_path, monkeypatch):
    io.write(tmp_path / "in.png", np.zeros((30, 20, 3), np.uint8))
    whole, seen = tiling.bands, []

    def interrupted(*args):
        for band in whole(*args):
            yield band
            seen.append(os.listdir(tmp_path / "out"))
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(tiling, "bands", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit:
        files.run(build(), [(tmp_path / "in.png", tmp_path / "out" / "out.png")], scale=2)
    assert exit.value.code == 128 + signal.SIGTERM
    assert len(seen) == len(seen[0]) == 1  # a file was being written, and that was the end of it
    assert os.listdir(tmp_path / "out") == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [(), (2,), (4,)])
def test_upscaled_files_are_upscaled_arrays(tmp_path, dtype, channels):
    array = (np.random.default_rng(0).random((30, 21, *channels)) * np.iinfo(dtype).max).astype(dtype)
    io.write(tmp_path / "in.png", array)
    model = build("lm_lte")
    assert files.run(model, [(tmp_path / "in.png", tmp_path / "out" / "out.tif")], scale=2.3, tile=9) == 0
    out, expected = io.read(tmp_path / "out" / "out.tif"), model.upscale(array, scale=2.3)
    assert out.dtype == expected.dtype
    assert np.abs(out.astype(int) - expected).max() <= (1 if dtype == "uint8" else 3)
    assert os.listdir(tmp_path / "out") == ["out.tif"]


def test_what_cannot_be_written_is_refused_before_work(tmp_path, monkeypatch, caplog):
    io.write(tmp_path / "in.png", np.zeros((20, 20, 3), np.uint8))
    monkeypatch.setattr(tiling, "bands", None)
    assert files.run(build(), [(tmp_path / "in.png", tmp_path / "out.webp")], scale=1000) == 1
    assert "16383 pixels a side, got 20000 x 20000" in caplog.text


def test_the_task_takes_tile_and_precision(compose, tmp_path, caplog):
    lr = tmp_path / "in.png"
    io.write(lr, np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8))
    model = SRModel(encoders.EDSR(8, 2), decoders.LMLIIF(8, 16, 2, [16], 4))
    parts = {"encoder": {"_target_": "lmf.encoders.EDSR", "out_channels": 8, "blocks": 2}}
    parts["decoder"] = {"_target_": "lmf.decoders.LMLIIF", "in_channels": 8, "depth": 2, "hyper": [16],
                        "code_channels": 4}  # fmt: skip
    model.config = parts
    save(model, tmp_path / "m.safetensors")
    out = {}
    tiny = [option for option in TINY_RUN if not option.startswith(("encoder.", "decoder."))]
    for name, options in {"whole": [], "tiles": ["tile=10"], "bf16": ["precision=bf16-mixed"]}.items():
        caplog.set_level("INFO")
        pipeline.run(compose(*tiny, "task=upscale", f"ckpt_path={tmp_path / 'm.safetensors'}", f"input={lr}",
                             f"output={tmp_path / name}.png", "scale=2", *options))  # fmt: skip
        out[name] = io.read(tmp_path / f"{name}.png").astype(int)
    assert np.abs(out["tiles"] - out["whole"]).max() <= 1
    assert 0 < np.abs(out["bf16"] - out["whole"]).max() < 8
    assert "peak memory" in caplog.text or os.name != "posix"


def test_unknown_precision():
    with pytest.raises(ValueError, match="32-true, bf16-mixed, 16-mixed, got 64"):
        autocast(64, "cpu")
    with autocast("bf16-mixed", "cpu")():
        assert (torch.rand(2, 2) @ torch.rand(2, 2)).dtype == torch.bfloat16
