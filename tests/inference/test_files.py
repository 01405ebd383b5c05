"""Tests of enlarging files: which are listed, what is written and what is logged."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from lmf import SRModel, io
from lmf.decoders import LMLIIF
from lmf.decoders.bicubic import Bicubic
from lmf.encoders import EDSR
from lmf.encoders.identity import Identity
from lmf.errors import UserError
from lmf.inference import files, upscale_files

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


@pytest.fixture
def photos(tmp_path, monkeypatch, pictures):
    """Create photos/a.png and photos/b/c.png in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b/c.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures["grey.png"])
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("source", "output"),
    [
        (".", "upscaled"),
        ("photos", "photos/out"),
        ("photos", "photos"),
        ("photos", "."),
        ("**/*.png", "upscaled"),
        ("photos/*.png", "photos"),
        (["photos", "photos/a.png"], "photos/out"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_outputs_are_not_inputs_of_the_next_run(photos, source, output, overwrite, model):
    options = {"scale": 2, "overwrite": overwrite}
    first = upscale_files(model, source, output, **options)
    assert first
    everything = sorted(Path().rglob("*.png"))
    assert upscale_files(model, source, output, **options) == (first if overwrite else [])
    assert sorted(Path().rglob("*.png")) == everything


def test_pictures_in_the_output_folder_can_be_named(photos, model):
    assert upscale_files(model, "photos/b/c.png", "photos", scale=2) == [Path("photos/c_x2.png")]
    assert upscale_files(model, "photos/b", "photos/b", scale=2) == [Path("photos/b/c_x2.png")]


@pytest.mark.parametrize("output", ["photos/a.png", "photos/../photos/a.png", "link.png"])
def test_an_input_is_not_replaced(photos, output, model, pictures):
    Path("link.png").symlink_to("photos/a.png")
    with pytest.raises(UserError, match="would replace its input"):
        upscale_files(model, "photos/a.png", output, scale=2, overwrite=True)
    assert (photos / "a.png").read_bytes() == pictures["grey.png"]


@pytest.mark.parametrize(("source", "output"), [("", "out"), ("photos", ""), (["photos", ""], "out")])
def test_empty_names_are_refused(photos, source, output):
    with pytest.raises(UserError, match="is an empty name"):
        files.plan(source, output, 2, None)


def test_names_show_width_by_height(photos, model):
    (path,) = upscale_files(model, "photos/a.png", "out", size=(50, 70))
    assert path == Path("out/a_70x50.png")
    assert Image.open(path).size == (70, 50)


def test_several_inputs_do_not_become_one_file(photos):
    with pytest.raises(UserError, match=r"the output out.png is one file, but there are 2 inputs; give a folder"):
        files.plan(["photos/a.png", "photos/b/c.png"], "out.png", 2, None)


def out_of_cpu_memory():
    torch.empty(1 << 50)


def out_of_cuda_memory():
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("fail", [out_of_cpu_memory, out_of_cuda_memory])
def test_a_picture_that_does_not_fit_in_memory_does_not_end_the_others(photos, model, fail, monkeypatch, caplog):
    enlarged = files.enlarged

    def enlarge(*arguments, **options):
        yield from enlarged(*arguments, **options)
        if failing:
            failing.pop()()

    failing = [fail]
    monkeypatch.setattr(files, "enlarged", enlarge)
    monkeypatch.setattr(
        files, "plan", lambda *_: [(photos / "a.png", Path("1.png")), (photos / "a.png", Path("2.png"))]
    )
    with pytest.raises(UserError, match="1 of 2 pictures failed"):
        upscale_files(model, "photos", scale=2)
    assert "memory" in caplog.text
    assert [path.name for path in Path().glob("*.png")] == ["2.png"]


@pytest.mark.parametrize("kind", [ValueError, AttributeError, RuntimeError])
def test_a_bug_ends_the_run_and_leaves_nothing(photos, model, kind, monkeypatch):
    def enlarged(*_, **__):
        raise kind("a bug")
        yield

    monkeypatch.setattr(files, "enlarged", enlarged)
    with pytest.raises(kind, match="a bug"):
        upscale_files(model, "photos/a.png", "out", scale=2)
    assert os.listdir("out") == []


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
        ({"quality": 0}, "quality must be a whole number between 1 and 100, got 0"),
        ({"quality": "abc"}, "quality must be a whole number between 1 and 100, got 'abc'"),
        ({"quality": None}, "quality must be a whole number between 1 and 100, got None"),
        ({"quality": 95.5}, "quality must be a whole number between 1 and 100, got 95.5"),
        ({"scale": True}, "scale must be a positive number, got True"),
        ({"scale": "2"}, "scale must be a positive number, got '2'"),
        ({"scale": None, "size": 30}, "size must be .* got 30"),
        ({"scale": None, "size": "30"}, "size must be .* got '30'"),
        ({"scale": None, "size": [30, True]}, "size must be .* got"),
        ({"tile": 0}, "tile must be a positive whole number, got 0"),
        ({"tile": 768.0}, "tile must be a positive whole number, got 768.0"),
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


def test_how_a_large_picture_is_encoded_is_logged(tmp_path, caplog):
    """A strip of 20 x 20 pixels of a picture 40 wide has 10 lines."""
    caplog.set_level("INFO")
    io.write(tmp_path / "a.png", np.zeros((70, 40, 3), np.uint8))
    edsr = SRModel(EDSR(8, 2), LMLIIF(8, 16, 2, [16], 4))
    assert files.run(edsr, [(tmp_path / "a.png", tmp_path / "b.png")], scale=2, tile=20) == 0
    assert "b.png: encoded in strips of 10 lines, 2" in caplog.text
    assert "% of this work is repeated, its maps take about 0.00 GiB" in caplog.text
    caplog.clear()
    assert files.run(edsr, [(tmp_path / "a.png", tmp_path / "b.png")], scale=2) == 0
    assert "encoded" not in caplog.text
