import numpy as np
import pytest
import torch

from lmf.decoders.cross_scale import CrossScaleAttention


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return CrossScaleAttention(4).double().eval()


def by_hand(module, feat):
    """Compute the definition patch by patch for one image (C, h, w)."""
    c, height, width = feat.shape
    h, w = height + height % 2, width + width % 2
    feat = np.pad(feat, ((0, 0), (0, h - height), (0, w - width)), mode="reflect")

    def point(conv, x):
        weight, bias, slope = (p.detach().numpy() for p in (conv[0].weight, conv[0].bias, conv[1].weight))
        y = np.einsum("oc,chw->ohw", weight[:, :, 0, 0], x) + bias[:, None, None]
        return np.where(y > 0, y, slope * y)

    half = feat.reshape(c, h // 2, 2, w // 2, 2).mean((2, 4))
    match = np.pad(point(module.conv_match_1, feat), ((0, 0), (1, 1), (1, 1)))
    small = np.pad(point(module.conv_match_2, half), ((0, 0), (1, 1), (1, 1)))
    large = np.pad(point(module.conv_assembly, feat), ((0, 0), (2, 2), (2, 2)))
    filters, patches = [], []
    for i in range(h // 2):
        for j in range(w // 2):
            patch = small[:, i : i + 3, j : j + 3]
            filters.append(patch / max(np.sqrt((patch**2).sum()), 1e-4))
            patches.append(large[:, 2 * i : 2 * i + 6, 2 * j : 2 * j + 6])
    canvas = np.zeros((c, 2 * h + 4, 2 * w + 4))
    for i in range(h):
        for j in range(w):
            score = np.array([10 * (f * match[:, i : i + 3, j : j + 3]).sum() for f in filters])
            share = np.exp(score - score.max())
            share /= share.sum()
            canvas[:, 2 * i : 2 * i + 6, 2 * j : 2 * j + 6] += np.tensordot(share, np.array(patches), 1)
    canvas = np.pad(canvas[:, 2:-2, 2:-2], ((0, 0), (1, 1), (1, 1)))
    weight, bias = module.down.weight.detach().numpy(), module.down.bias.detach().numpy()
    out = np.empty((c, h, w))
    for i in range(h):
        for j in range(w):
            out[:, i, j] = np.tensordot(weight, canvas[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], 3) + bias
    return out[:, :height, :width] / 6


@torch.no_grad()
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_is_its_definition(attention, size):
    feat = torch.rand(2, 4, *size, dtype=torch.float64) - 0.5
    out = attention(feat)
    for i in range(2):
        np.testing.assert_allclose(out[i], by_hand(attention, feat[i].numpy()), atol=1e-10)


@torch.no_grad()
def test_tiles_have_a_margin_inside_the_image(attention):
    """60 x 100 has one tile of rows and two of columns; the last one extends to the border."""
    feat = torch.rand(1, 4, 60, 100, dtype=torch.float64)
    left = attention.attend(feat[..., :49])[..., :48]
    right = attention.attend(feat[..., 47:])[..., 1:]
    torch.testing.assert_close(attention(feat), torch.cat([left, right], 3))


@torch.no_grad()
def test_short_axes_are_one_tile(attention):
    feat = torch.rand(1, 4, 40, 100, dtype=torch.float64)
    out = attention(feat)
    torch.testing.assert_close(out[..., :48], attention.attend(feat[..., :49])[..., :48])
    assert out.abs().amax((0, 1)).min() > 0


@torch.no_grad()
def test_small_maps_are_not_tiled(attention):
    feat = torch.rand(1, 4, 20, 100, dtype=torch.float64)
    assert torch.equal(attention(feat), attention.attend(feat))
