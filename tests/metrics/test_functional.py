import json

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lmf.metrics import colour_share, psnr, raw_max, ssim
from lmf.metrics.functional import protocol_options


def pictures(h: int, w: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.RandomState(0)
    hr = random.randint(0, 256, (batch, 3, h, w)).astype(np.float32) / 255
    noise = random.standard_normal((batch, 3, h, w)).astype(np.float32) * 0.05
    return torch.from_numpy(np.clip(hr + noise, 0, 1)), torch.from_numpy(hr)


def test_psnr_of_all_protocols_equals_the_stored_values(shared):
    rows = json.loads((shared / "golden" / "psnr.json").read_text())["rows"]
    random = np.random.RandomState(0)
    for size in ((48, 60), (64, 64)):
        hr = random.randint(0, 256, (1, 3, *size)).astype(np.float32) / 255
        sr = np.clip(hr + random.standard_normal((1, 3, *size)).astype(np.float32) * 0.05, 0, 1)
        of_size = [row for row in rows if (row["h"], row["w"]) == size]
        assert len(of_size) == 5
        for row in of_size:
            space, shave = protocol_options(row["dataset"] or "raw", row["scale"])
            value = psnr(torch.from_numpy(sr), torch.from_numpy(hr), space=space, shave=shave)
            assert value.item() == pytest.approx(row["psnr"], abs=1e-4), row


@pytest.mark.parametrize("shave", [0, 5])
def test_psnr_and_ssim_equal_scikit_image(shave):
    sr, hr = pictures(37, 50, batch=2)
    inside = slice(shave, -shave or None)
    for space in ("rgb", "y"):
        ours = psnr(sr, hr, space=space, shave=shave), ssim(sr, hr, space=space, shave=shave)
        for i in range(2):
            a, b = (x[i].permute(1, 2, 0).double().numpy()[inside, inside] for x in (sr, hr))
            options = {"data_range": 1.0, "channel_axis": 2}
            if space == "y":
                a, b = rgb2ycbcr(a)[..., 0], rgb2ycbcr(b)[..., 0]
                options = {"data_range": 255}
            assert ours[0][i].item() == pytest.approx(
                peak_signal_noise_ratio(a, b, data_range=options["data_range"]), abs=1e-5
            )
            expected = structural_similarity(
                a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, **options
            )
            assert ours[1][i].item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("protocol", "scale", "expected"),
    [("div2k", 4, ("rgb", 10)), ("div2k", 3.7, ("rgb", 10)), ("benchmark", 2.5, ("y", 3)), ("raw", 4, ("rgb", 0))],
)
def test_protocols(protocol, scale, expected):
    assert protocol_options(protocol, scale) == expected


def test_identical_pictures():
    _, hr = pictures(12, 12, batch=2)
    assert torch.isposinf(psnr(hr, hr)).all()
    assert torch.equal(ssim(hr, hr), torch.ones(2, dtype=torch.float64))


def test_predictions_are_clamped_and_half_precision_is_measured_in_double():
    sr, hr = pictures(16, 16)
    assert torch.equal(psnr(hr * 3 - 1, hr), psnr((hr * 3 - 1).clamp(0, 1), hr))
    assert psnr(sr.bfloat16(), hr.bfloat16()).dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9)), r"the same shape, got \(1, 3, 8, 8\) and \(1, 3, 8, 9\)"),
        ((torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)), r"must be \(B, 3, H, W\), got \(3, 8, 8\)"),
        ((torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)), r"must be \(B, 3, H, W\)"),
    ],
)
def test_errors_of_shape(arguments, message):
    for function in (psnr, ssim):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


def test_errors_of_options():
    x = torch.zeros(1, 3, 20, 30)
    with pytest.raises(ValueError, match="without a border of 10 pixels is 0 x 10; at least 1 x 1"):
        psnr(x, x, shave=10)
    with pytest.raises(ValueError, match="is 10 x 20; at least 11 x 11"):
        ssim(x, x, shave=5)
    with pytest.raises(ValueError, match=r"space must be one of .* got 'hsv'"):
        psnr(x, x, space="hsv")
    with pytest.raises(ValueError, match=r"protocol must be one of .* got 'set5'"):
        protocol_options("set5", 2)
    with pytest.raises(ValueError, match="scale must be a positive number, got 0"):
        protocol_options("raw", 0)


def test_colour_share_counts_pixels_in_numpy():
    random = np.random.default_rng(0)
    hr = np.repeat(random.random((4, 1, 20, 30)), 3, axis=1)
    hr[3, 2, 4, 5] += 0.01  # not grey
    sr = hr + random.normal(0, 0.08, hr.shape)
    clipped = sr.clip(0, 1)
    coloured = clipped.max(axis=1) - clipped.min(axis=1) > 32 / 255
    wanted = coloured.reshape(4, -1).mean(axis=1)
    ours = colour_share(torch.from_numpy(sr), torch.from_numpy(hr))
    assert ours.dtype == torch.float64
    np.testing.assert_allclose(ours[:3], wanted[:3], atol=1e-12)
    assert wanted.min() > 0.1
    assert ours[3].isnan()


def test_colours_beyond_the_range_count_as_seen():
    """-100 and 0 are both black, 100 and 1 both white."""
    hr = torch.zeros(1, 3, 1, 3)
    sr = torch.tensor([[0.0, -100, 0], [1, 100, 2], [-100, 0.5, 1]]).T.view(1, 3, 1, 3)
    assert colour_share(sr, hr).item() == pytest.approx(1 / 3)


def test_raw_max_is_in_network_units():
    sr = torch.tensor([[0.0, 1.0, 0.5], [0.5, -3.0, 1.0], [0.4, 0.5, 0.6]]).view(3, 1, 1, 3)
    assert raw_max(sr).tolist() == pytest.approx([1, 7, 0.2])


def test_faults_of_pictures_of_another_shape():
    with pytest.raises(ValueError, match="same shape"):
        colour_share(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
