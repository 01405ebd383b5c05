from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lmf import grid
from lmf.data import DataError, ImageFolder
from lmf.data.features import FeatureSamples
from lmf.decoders import LMLIIF
from lmf.encoders import EDSR, Encoder

SIDE = 12


def encoder(seed: int = 0) -> EDSR:
    torch.manual_seed(seed)
    return EDSR(8, 1).eval()


@pytest.fixture
def make(images: ImageFolder, tmp_path: Path) -> Callable[..., FeatureSamples]:
    def made(eyes: Encoder | None = None, **options: float) -> FeatureSamples:
        settings = {"margin": 2, "seed": 0, "scenes": 4, "side": SIDE, "patch": 4, "queries": 30}
        settings |= {"min_scale": 1, "max_scale": 3} | options
        return FeatureSamples(images, tmp_path / "cache", eyes or encoder(), **settings)  # type: ignore[arg-type]

    return made


@pytest.fixture
def samples(make: Callable[..., FeatureSamples]) -> FeatureSamples:
    made = make()
    made.encode()
    return made


def whereabouts(window: np.ndarray, samples: FeatureSamples) -> tuple[int, int, int]:
    """Scene, top and left of a window of features."""
    side = len(window)
    for number, feat in enumerate(samples.feat):
        windows = np.lib.stride_tricks.sliding_window_view(feat, (side, side), axis=(0, 1))
        hits = np.argwhere((windows == window.transpose(2, 0, 1)).all((2, 3, 4)))
        if len(hits):
            return number, *hits[0]
    raise AssertionError("the window is from no scene")


def test_features_are_those_of_the_pictures(samples: FeatureSamples) -> None:
    for number, scene in enumerate(samples.scenes):
        assert scene.cut(samples.images[scene.image]).shape == (scene.side, scene.side, 3)
        lr = torch.tensor(samples.lr[number]).permute(2, 0, 1)[None] / 127.5 - 1
        expected = samples.encoder(lr)[0].permute(1, 2, 0).detach().numpy()
        np.testing.assert_allclose(samples.feat[number], expected, atol=2e-3)


def test_scenes_differ_in_scale_and_flip(make: Callable[..., FeatureSamples]) -> None:
    scenes = make(scenes=200).scenes
    sides = np.array([scene.side for scene in scenes])
    assert sides.min() == SIDE
    assert sides.max() == 3 * SIDE
    assert abs(sides.mean() - 2 * SIDE) < 1.5
    assert len({scene.flip for scene in scenes}) == 8
    assert {scene.image for scene in scenes} == set(range(5))


def test_a_window_decodes_like_the_whole_scene_and_targets_are_its_pixels(samples: FeatureSamples) -> None:
    torch.manual_seed(1)
    decoder = LMLIIF(8, depth=2, hyper=(16,), skip="bilinear").eval()
    edges = 0
    for number in range(40):
        batch = samples.__getitems__([number])
        assert isinstance(batch, dict)
        feat, lr, p = batch["feat"].float(), batch["lr"] * 2 - 1, samples.window
        assert feat.shape == (1, 8, p, p)
        scene, top, left = whereabouts(batch["feat"][0].permute(1, 2, 0).numpy(), samples)
        edges += top in (0, SIDE - p) or left in (0, SIDE - p)
        corner = torch.tensor([top, left])
        coord = ((batch["coord"].double() + 1) * p / 2 + corner) * 2 / SIDE - 1  # of the scene
        cell = batch["cell"] * p / SIDE

        whole = torch.tensor(samples.feat[scene]).permute(2, 0, 1)[None].float()
        image = torch.tensor(samples.lr[scene]).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            expected = decoder.query(decoder.latent(whole, image, cell), coord.float(), cell)
            actual = decoder.query(decoder.latent(feat, lr, batch["cell"]), batch["coord"], batch["cell"])
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)

        hr = samples.scenes[scene].cut(samples.images[samples.scenes[scene].image])
        assert cell[0].tolist() == pytest.approx([2 / len(hr)] * 2)
        pixel = grid.nearest(coord, (len(hr), len(hr)))[0]
        centre = torch.stack([pixel // len(hr), pixel % len(hr)], dim=-1) * 2 / len(hr) - 1 + 1 / len(hr)
        torch.testing.assert_close(coord[0], centre, atol=1e-5, rtol=0, check_dtype=False)
        np.testing.assert_array_equal((batch["target"][0] * 255).round(), hr.reshape(-1, 3)[pixel])
    assert 5 < edges < 40


def test_samples_depend_on_their_number_alone(samples: FeatureSamples, make: Callable[..., FeatureSamples]) -> None:
    again = make()
    again.encode()  # is there already
    both = (s.__getitems__([7, 8]) for s in (samples, again))
    first, second = both
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["coord"][0], first["coord"][1])


def test_another_encoder_or_scene_has_its_own_folder(make: Callable[..., FeatureSamples]) -> None:
    folders = {made.folder for made in (make(), make(encoder(1)), make(seed=1), make(scenes=5), make(max_scale=2))}
    assert len(folders) == 5
    assert make().folder == make(patch=6, queries=5).folder  # what lies in it is the same


def test_a_failure_leaves_nothing_behind(make: Callable[..., FeatureSamples], tmp_path: Path) -> None:
    class Fails(EDSR):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of memory")

    made = make(Fails(8, 1))
    with pytest.raises(RuntimeError, match="out of memory"):
        made.encode()
    assert not [path for path in (tmp_path / "cache").iterdir() if "features" in path.name]


@pytest.mark.parametrize(
    ("options", "message"), [({"scenes": 0}, "scenes must be at least 1"), ({"side": 7}, "at least 8 LR pixels wide")]
)
def test_impossible_settings(make: Callable[..., FeatureSamples], options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(**options)
