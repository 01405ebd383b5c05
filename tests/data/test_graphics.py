from pathlib import Path

import numpy as np
import pytest

from lmf import io
from lmf.data import DataError, EvalSet
from lmf.data.graphics import KINDS, Graphics, canvas, draw
from lmf.data.graphics.canvas import Canvas, Palette

from .test_configs import datamodule

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Graphics:
    return Graphics(tmp_path_factory.mktemp("graphics"), side=24)


def test_a_rectangle_covers_parts_of_pixels() -> None:
    plane = Canvas(4, 5, BLACK, samples=8)
    plane.rectangle(1, 0.5, 3.25, 2.75, WHITE)
    rows, columns = np.array([0.5, 1, 0.75, 0]), np.array([0, 1, 1, 0.25, 0])
    np.testing.assert_array_equal(plane.pixels()[..., 0], np.floor(255 * np.outer(rows, columns) + 0.5))


def test_shapes_have_their_areas() -> None:
    """The mean of a picture is the share of its area that is covered."""
    radius, sides = 20.0, np.array([[3, 5], [43, 12], [20, 45]])
    disc, sector, triangle, line = (Canvas(50, 50, BLACK, samples=16) for _ in range(4))
    disc.ellipse(np.array([25, 25]), np.full(2, radius), WHITE)
    sector.sector(np.array([25, 25]), radius, 10, 100, WHITE)
    triangle.polygon(sides, WHITE)
    line.line(np.array([[5, 5], [35, 45]]), WHITE, 2)
    (ax, ay), (bx, by) = sides[1:] - sides[0]
    areas = [np.pi * radius**2, np.pi * radius**2 / 4, abs(ax * by - ay * bx) / 2, 2 * 50]
    for plane, area in zip((disc, sector, triangle, line), areas, strict=True):
        assert plane.pixels().mean() / 255 * 2500 == pytest.approx(area, rel=0.03)


def test_a_wave_is_its_mean_over_each_pixel() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        palette = Palette.random(rng, grey=True)
        drawn = draw(np.random.default_rng(seed), 20, 20, "grating", palette=palette)
        probe = np.random.default_rng(seed)
        low, high = palette.background[0], palette.ink(probe)[0]
        degrees = float(probe.choice([0, 90, probe.uniform(0, 180)]))
        period, phase = np.exp(probe.uniform(np.log(2), np.log(40))), probe.uniform(0, 1)
        if probe.integers(4):
            continue
        points = (np.arange(20 * 32) + 0.5) / 32
        place = np.cos(np.radians(degrees)) * points[None] + np.sin(np.radians(degrees)) * points[:, None]
        wave = 0.5 + 0.5 * np.cos(2 * np.pi * (place / period + phase))
        mean = wave.reshape(20, 32, 20, 32).mean(axis=(1, 3))
        np.testing.assert_allclose(drawn[..., 0], low + mean * (high - low), atol=0.6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str) -> None:
    """A picture depends on the generator alone, is grey where asked, and hardly depends on the samples per pixel."""
    contrasts = []
    for seed in range(12):
        height, width, grey = 16 + 7 * seed, 100 - 6 * seed, seed % 2 == 0
        palette = Palette.random(np.random.default_rng(seed + 50), grey)
        coarse, again, exact = (
            draw(np.random.default_rng(seed), height, width, kind, palette=palette, samples=samples)
            for samples in (4, 4, 12)
        )
        assert coarse.shape == (height, width, 3)
        assert coarse.dtype == np.uint8
        np.testing.assert_array_equal(coarse, again)
        assert not grey or (coarse == coarse[..., :1]).all()
        assert np.abs(coarse.astype(int) - exact).mean() < 12
        contrasts.append(np.ptp(coarse.reshape(-1, 3), axis=0).max())
    assert np.mean(np.array(contrasts) > 0) > 0.7
    assert max(contrasts) > 200


def test_pictures_without_a_kind() -> None:
    """All kinds occur, half of the pictures is grey, and no two are alike."""
    pictures = [draw(np.random.default_rng((5, n)), 24, 30) for n in range(80)]
    grey = [(picture == picture[..., :1]).all() for picture in pictures]
    assert 25 < sum(grey) < 65
    assert len({picture.tobytes() for picture in pictures}) > 75


def test_palettes() -> None:
    """Half are on white or black, the others have any contrast, and grey means grey."""
    palettes = [Palette.random(np.random.default_rng(seed), grey=seed % 2 == 0) for seed in range(300)]
    paper = [palette.background in (WHITE, BLACK) for palette in palettes]
    assert 120 < sum(paper) < 180
    colours = [np.array([palette.background, *palette.inks]) for palette in palettes]
    assert all((colour == colour[:, :1]).all() for colour in colours[::2])
    assert sum((colour == colour[:, :1]).all() for colour in colours[1::2]) < 30
    contrasts = np.array([np.abs(colour[1] - colour[0]).max() for colour in colours])[~np.array(paper)]
    assert min(contrasts) < 10
    assert max(contrasts) > 180


@pytest.mark.parametrize(
    ("wrong", "message"), [({"kind": "photo"}, "kind must be one of text, labels"), ({"height": 8}, "16 x 16 pixels")]
)
def test_wrong_requests(wrong: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw(np.random.default_rng(0), **({"height": 20, "width": 20} | wrong))


def test_missing_fonts_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "FONTS", ("DejaVuSans", "Unicorn"))
    with pytest.raises(DataError, match="lacks the fonts Unicorn in "):
        canvas.font_folder.__wrapped__()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_drawing_at_every_size(kind: str) -> None:
    """A drawing at three times the size, reduced by averaging, is the drawing itself."""
    for seed in range(8):
        small, large = (draw(np.random.default_rng(seed), 40, 31, kind, scale=s, samples=24 // s) for s in (1, 3))
        assert large.shape == (120, 93, 3)
        reduced = large.astype(float).reshape(40, 3, 31, 3, 3).mean(axis=(1, 3))
        assert np.abs(reduced - small).mean() < 2
    assert draw(np.random.default_rng(0), 40, 31, kind, scale=3.7).shape == (148, 115, 3)


def test_the_fixed_set(drawn: Graphics) -> None:
    paths = drawn.files()
    assert [path.stem for path in paths[:3]] == ["text_grey", "text_colour", "labels_grey"]
    pictures = [io.read(path) for path in paths]
    assert len(pictures) == 24
    assert {picture.shape for picture in pictures} == {(96, 96, 3)}
    for path, picture in zip(paths, pictures, strict=True):
        assert np.ptp(picture, axis=(0, 1)).max() >= 25
        assert path.stem.endswith("grey") == bool((picture == picture[..., :1]).all())


def test_the_fixed_set_is_drawn_once(drawn: Graphics) -> None:
    paths = drawn.files()
    before = [path.stat().st_mtime_ns for path in paths]
    content = paths[3].read_bytes()
    paths[3].unlink()
    assert drawn.files() == paths
    assert paths[3].read_bytes() == content
    assert [path.stat().st_mtime_ns for n, path in enumerate(paths) if n != 3] == before[:3] + before[4:]
    assert Graphics(drawn.root, side=16).files()[0].parent != paths[0].parent


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write the graphics"):
        Graphics(tmp_path / "file", side=16).files()


@pytest.mark.parametrize("scale", [1, 3.7, 12])
def test_every_scale(drawn: Graphics, scale: float) -> None:
    """The LR pictures of all scales are of one size and show the same."""
    images, exact = (EvalSet("graphics", drawn, scale=s, protocol="benchmark") for s in (scale, 4))
    assert images.faults
    for index in (4, 8, 21):
        lr, wanted = images[index]["lr"], exact[index]["lr"]
        h, w = lr.shape[1:]
        assert min(h, w) >= 23
        assert abs(lr - wanted[:, :h, :w]).mean() < 0.06
        assert index == 21 or (lr == lr[:1]).all()


def test_it_is_one_of_the_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = datamodule(tmp_path, "data=benchmarks", "data.sets=[graphics]", "data.scales=[2,4]")
    monkeypatch.setattr(data.test["graphics"], "side", 16)
    data.prepare("test")
    data.setup("test")
    assert [images.name for images in data.test_sets] == ["graphics_x2", "graphics_x4"]
    assert [images[0]["hr"].shape for images in data.test_sets] == [(3, 32, 32), (3, 64, 64)]
    assert len(list((tmp_path / "cache/graphics").glob("*/*.png"))) == 48
