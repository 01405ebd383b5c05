"""Enlarging files: what is listed, what becomes of it, what is said."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from lmf import SRModel, io
from lmf.decoders.bicubic import Bicubic
from lmf.encoders.identity import Identity
from lmf.inference import files

from ..io import corpus


@pytest.fixture(scope="module")
def model() -> SRModel:
    return SRModel(Identity(), Bicubic())


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    return corpus.corpus()


def run(model: SRModel, source: Path, output: Path, scale: float = 2, fmt: str | None = None, **options: object) -> int:
    jobs = files.plan(str(source), str(output), scale, None, fmt)
    return files.run(model, jobs, scale=scale, **options)


def test_every_format_is_enlarged(tmp_path, model, pictures, caplog):
    caplog.set_level("INFO")
    for name, data in pictures.items():
        path = tmp_path / "in" / f"{name.replace('.', '_')}{os.path.splitext(name)[1]}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    assert run(model, tmp_path / "in", tmp_path / "out") == 0
    assert len(os.listdir(tmp_path / "out")) == len(pictures)
    for name in pictures:
        stem, suffix = name.replace(".", "_"), os.path.splitext(name)[1]
        kept = suffix in (".png", ".jpg", ".tif", ".webp", ".avif")
        out = tmp_path / "out" / f"{stem}_x2{suffix if kept else '.png'}"
        before, after = io.read_header(tmp_path / "in" / f"{stem}{suffix}"), io.read_header(out)
        assert after.size == (2 * before.size[0], 2 * before.size[1])
        assert after.deep == before.deep or name in ("deep.pgm", "palette.tif")  # the header does not show
        assert after.pages == before.pages
        if not kept:
            assert f"{stem}{suffix}: {suffix} cannot be written; the output becomes PNG" in caplog.text
    with Image.open(tmp_path / "out" / "rgb_png_x2.png") as out:
        assert out.info["icc_profile"] == corpus.ICC
        assert out.info["dpi"] == pytest.approx((600, 600), rel=1e-3)
        assert out.getexif().get_ifd(0x8769)[0xA002] == 80


@pytest.mark.parametrize(
    ("content", "suffix", "becomes", "said"),
    [
        ("deep.png", ".jpg", "PNG", "it holds PNG"),
        ("rgb.png", ".webp", "PNG", "it holds PNG"),
        ("plain.tif", ".png", "PNG", ""),
        ("baseline.jpg", ".tif", "TIFF", ""),
        ("baseline.jpg", ".jfif", "PNG", ".jfif cannot be written"),
    ],
)
def test_suffixes_that_lie(tmp_path, model, pictures, caplog, content, suffix, becomes, said):
    caplog.set_level("INFO")
    (tmp_path / f"a{suffix}").write_bytes(pictures[content])
    assert run(model, tmp_path / f"a{suffix}", tmp_path / "out") == 0
    (name,) = os.listdir(tmp_path / "out")
    with Image.open(tmp_path / "out" / name) as image:
        assert image.format == becomes
    assert io.FORMATS[Path(name).suffix] == becomes
    assert said in caplog.text
    assert ("the output becomes PNG" in caplog.text) == bool(said)


def test_pages_are_enlarged_one_by_one(tmp_path, model, pictures):
    (tmp_path / "a.tif").write_bytes(pictures["pages.tif"])
    assert run(model, tmp_path / "a.tif", tmp_path / "out") == 0
    with (
        tifffile.TiffFile(BytesIO(pictures["pages.tif"])) as before,
        tifffile.TiffFile(tmp_path / "out" / "a_x2.tif") as after,
    ):
        assert len(after.pages) == len(before.pages) == 3
        for old, new in zip(before.pages, after.pages, strict=True):
            expected = model.upscale(old.asarray(), scale=2)
            assert new.dtype == old.dtype
            assert np.abs(new.asarray().astype(int) - expected).max() <= (1 if old.dtype == np.uint8 else 3)


def test_pages_that_the_format_does_not_hold(tmp_path, model, pictures, caplog):
    (tmp_path / "a.tif").write_bytes(pictures["pages.tif"])
    assert run(model, tmp_path / "a.tif", tmp_path / "out", fmt="png") == 1
    assert "only .tif holds 3 pages" in caplog.text
    assert not (tmp_path / "out").exists()


def test_animations_are_named(tmp_path, model, caplog):
    frames = [Image.fromarray(corpus.noise(8, 9, 3, seed=n)) for n in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    Image.fromarray(corpus.noise(8, 9, 3)).save(tmp_path / "b.png")
    assert run(model, tmp_path, tmp_path / "out") == 1
    assert f"{tmp_path / 'a.webp'}: it is an animation of 3 frames" in caplog.text
    assert os.listdir(tmp_path / "out") == ["b_x2.png"]


def test_a_damaged_page_leaves_nothing(tmp_path, model, pictures, caplog):
    data = pictures["pages.tif"]
    with tifffile.TiffFile(BytesIO(data)) as tiff:
        tag = tiff.pages[2].tags[279]
    (tmp_path / "a.tif").write_bytes(data[: tag.valueoffset] + bytes(2) + data[tag.valueoffset + 2 :])
    assert run(model, tmp_path / "a.tif", tmp_path / "out") == 1
    assert "lacks data" in caplog.text
    assert os.listdir(tmp_path / "out") == []


def test_linked_folders(tmp_path, model, pictures):
    for path in (tmp_path / "a" / "1.png", tmp_path / "b" / "2.png", tmp_path / "b" / "3.png"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pictures["grey.png"])
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "a")
    assert run(model, tmp_path / "a", tmp_path / "out") == 0
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert found == ["1_x2.png", "linked/2_x2.png", "linked/3_x2.png"]
    jobs = files.plan(str(tmp_path / "a" / "**" / "*.png"), str(tmp_path / "glob"), 2, None)
    assert [source.name for source, _ in jobs] == ["1.png", "2.png", "3.png"]


def test_max_pixels(tmp_path, model, pictures, caplog):
    (tmp_path / "a.png").write_bytes(pictures["rgb.png"])
    assert run(model, tmp_path / "a.png", tmp_path / "out", max_pixels=1000) == 1
    assert "40 x 30 pixels are more than max_pixels=1000" in caplog.text
    assert run(model, tmp_path / "a.png", tmp_path / "out", max_pixels=1200) == 0


def test_outputs_that_cannot_be_written_are_refused_at_once(tmp_path, pictures):
    (tmp_path / "a.png").write_bytes(pictures["rgb.png"])
    with pytest.raises(ValueError, match=r"out\.bmp: the suffix must be one of \.png"):
        files.plan(str(tmp_path / "a.png"), str(tmp_path / "out.bmp"), 2, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fmt": "bmp"}, "format must be one of png"),
        ({"quality": 0}, "quality must be between 1 and 100, got 0"),
        ({"subsampling": "4:1:1"}, "subsampling must be one of 4:4:4, 4:2:2, 4:2:0, got '4:1:1'"),
        ({"max_pixels": 0}, "max_pixels must be a positive whole number, got 0"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        files.check_request(**{"scale": 2, "size": None, "fmt": None, "quality": 95, **options})


def test_alpha_goes_through_the_model_only_where_it_varies(tmp_path, pictures, monkeypatch):
    model, seen = SRModel(Identity(), Bicubic()), []
    features = model.features
    monkeypatch.setattr(model, "features", lambda image: [features(image), seen.append(image.shape)][0])
    for name, alpha in (("flat.png", np.full((30, 40), 255)), ("varying.png", corpus.noise(30, 40))):
        array = np.dstack([corpus.noise(30, 40, 3), alpha.astype(np.uint8)])
        Image.fromarray(array).save(tmp_path / name)
        seen.clear()
        assert run(model, tmp_path / name, tmp_path / "out") == 0
        assert len(seen) == (1 if name == "flat.png" else 2)
    assert all(shape == torch.Size([1, 3, 30, 40]) for shape in seen)
