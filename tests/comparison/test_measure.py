"""Models side by side on the same pictures."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from lmf.benchmark import cost
from lmf.comparison import Entry, compare, tabulate
from lmf.comparison.crops import check_corner, choose
from lmf.decoders import LIIF, Bicubic
from lmf.encoders import EDSR, Identity
from lmf.errors import UserError
from lmf.model import SRModel


@dataclass
class Pictures:
    dataset: str = "mine"
    scale: float = 2.0
    protocol: str = "raw"
    count: int = 3

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        small = Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8))
        hr = small.resize((48, 40), Image.Resampling.BICUBIC)
        lr = hr.resize((24, 20), Image.Resampling.BICUBIC)
        tensors = [torch.from_numpy(np.array(x)).permute(2, 0, 1) / 255 for x in (lr, hr)]
        return {"lr": tensors[0], "hr": tensors[1], "name": f"p{index}"}


@pytest.fixture
def entries():
    torch.manual_seed(0)
    return [
        Entry("bicubic", SRModel(Identity(), Bicubic())),
        Entry("liif", SRModel(EDSR(8, 1), LIIF(8, [16]))),
    ]


def test_what_is_measured_of_each_picture(entries):
    result = compare(entries, [Pictures()], metrics={"largest": lambda sr, hr: (sr - hr).abs().max().item()})
    assert [(s.model, s.picture) for s in result.scores] == [
        (model, f"p{i}") for i in range(3) for model in ("bicubic", "liif")
    ]
    item = Pictures()[1]
    array = (item["lr"] * 255).byte().permute(1, 2, 0).numpy()
    expected = Image.fromarray(array).resize((48, 40), Image.Resampling.BICUBIC)
    hr = item["hr"].permute(1, 2, 0).numpy()
    psnr = -10 * np.log10(((np.asarray(expected) / 255 - hr) ** 2).mean())
    score = next(s for s in result.scores if (s.model, s.picture) == ("bicubic", "p1"))
    assert score.values["psnr"] == pytest.approx(psnr, abs=0.05)  # Pillow rounds to 8 bits
    assert score.values["largest"] == pytest.approx(np.abs(np.asarray(expected) / 255 - hr).max(), abs=0.01)
    liif = next(s for s in result.scores if s.model == "liif")
    assert liif.values["gmacs"] == pytest.approx(cost.count(entries[1].model, (20, 24), scale=2).total_macs / 1e9)
    assert all(s.values["seconds"] > 0 for s in result.scores)
    assert [("peak_bytes" in s.values) for s in result.scores[2:]] == [False] * 4  # of the first picture only
    assert result.parameters == {"bicubic": 0, "liif": sum(p.numel() for p in entries[1].model.parameters())}


def test_figures_show_where_models_differ_most(entries):
    result = compare(entries, [Pictures(), Pictures(scale=4.0)], figures=2, crop=16)
    assert [(shot.scale, shot.crops.keys()) for shot in result.shots] == [
        (scale, {"bicubic", "liif"}) for scale in (2.0, 2.0, 4.0, 4.0)
    ]
    spreads = [shot.spread for shot in result.shots[:2]]
    everything = compare(entries, [Pictures()], figures=3, crop=16)
    assert spreads == sorted((shot.spread for shot in everything.shots), reverse=True)[:2]
    shot = result.shots[0]
    top, left, bottom, right = shot.box
    assert (bottom - top, right - left) == (16, 16)
    assert np.array_equal(shot.truth, shot.hr[top:bottom, left:right])
    error = np.abs(shot.crops["bicubic"].astype(float) - shot.truth) / 255
    assert np.abs(error.mean(axis=-1) - shot.errors["bicubic"]).max() < 1 / 255


def test_given_pictures_and_crop(entries):
    result = compare(entries, [Pictures()], names=["p2", "p0"], crop=8, corner=[30, 5])
    assert [(shot.picture, shot.box) for shot in result.shots] == [("p0", (30, 5, 38, 13)), ("p2", (30, 5, 38, 13))]


def test_the_window_with_the_largest_difference():
    hr = torch.full((1, 3, 64, 64), 0.5)
    same, worse = hr + 0.1, hr + 0.1
    worse[..., 40:56, 8:24] += 0.2
    assert choose([same, worse], hr, 16)[0] == (40, 8)
    assert choose([worse], hr, 16)[0] == (40, 8)
    assert choose([same, worse], hr, 100)[0] == (0, 0)
    spread = choose([same, worse], hr, 16)[1]
    assert spread == pytest.approx(0.3**2 - 0.1**2, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 4}, "crop must be a whole number of at least 8, got 4"),
        ({"repeats": 0}, "repeats must be a whole number of at least 1, got 0"),
        ({"names": ["q"]}, "no picture is called q"),
        ({"corner": [30, 5], "crop": 16}, r"a crop of 16 pixels at \[30, 5\] does not lie in p0, which has 48 x 40"),
        ({"corner": [3]}, r"the crop must be \[top,left\] in HR pixels, got \[3\]"),
    ],
)
def test_options_out_of_range(entries, options, message):
    with pytest.raises(UserError, match=message):
        compare(entries, [Pictures()], **options)


def test_labels_differ(entries):
    with pytest.raises(UserError, match="two models are called liif"):
        compare([*entries, entries[1]], [Pictures()])


def test_a_crop_of_a_small_picture():
    assert check_corner([0, 0], 64, (20, 30), "a") == (0, 0)


def test_a_table_of_real_scores(entries):
    table = tabulate(compare(entries, [Pictures()]))
    assert [row.model for row in table.rows] == ["bicubic", "liif"]
    assert table.rows[0].sets["mine"].pictures == 3
    assert "Means over 3 pictures" in table.note
