from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates

from lmf import grid
from lmf.grid import Grid


def coords(q, seed=0, batch=2):
    return torch.rand(batch, q, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_axis_is_cell_centres():
    np.testing.assert_allclose(grid.axis(5), -1 + (2 * np.arange(5) + 1) / 5, atol=1e-7)
    assert torch.equal(grid.axis(7, 2, 5), grid.axis(7)[2:5])


def test_axis_of_a_padded_picture():
    """20 rows padded to 24 and enlarged by 2.5 give 60 cells, of which 50 are used."""
    np.testing.assert_allclose(grid.axis(60.0, 0, 50), (np.arange(50) + 0.5) / 30 - 1, atol=1e-7)


def test_bands_make_the_whole():
    whole = Grid.of(7, 5)
    assert torch.equal(torch.cat([whole.band(0, 3).coord(), whole.band(3, 7).coord()]), whole.coord())
    assert whole.coord().view(7, 5, 2)[2, 4].tolist() == pytest.approx([-1 + 5 / 7, -1 + 9 / 5])
    assert whole.cell == (2 / 7, 2 / 5)


@pytest.mark.parametrize("size", [(4, 6), (7, 3), (1, 5)])
def test_nearest_is_grid_sample(size):
    h, w = size
    ties = Grid.of(2 * h, 3 * w).coord()[None].repeat(2, 1, 1) + torch.tensor([1 / (2 * h), 0])
    coord = torch.cat([coords(200), ties], dim=1).clamp(-1 + 1e-6, 1 - 1e-6)
    cells = torch.arange(h * w, dtype=torch.float32).view(1, 1, h, w).expand(2, 1, h, w)
    theirs = F.grid_sample(cells, coord.flip(-1)[:, None], mode="nearest", align_corners=False)
    assert torch.equal(grid.nearest(coord, size), theirs[:, 0, 0].long())


def test_nearest_clamps_to_the_picture():
    outside = torch.tensor([[-1.5, -1.0], [1.0, 2.0]])
    assert grid.nearest(outside, (3, 4)).tolist() == [0, 11]


def test_ensemble_inside_is_bilinear_weights():
    h, w = 6, 5
    coord = coords(300) * 0.7
    index, rel, weight = grid.ensemble(coord, (h, w))
    y, x = (((coord[..., i] + 1) * n - 1) / 2 for i, n in enumerate((h, w)))
    for k, (dy, dx) in enumerate(grid.NEIGHBOURS):
        row, col = y.floor() + (dy > 0), x.floor() + (dx > 0)
        assert torch.equal(index[k], (row * w + col).long())
        expected = (1 - (y - row).abs()) * (1 - (x - col).abs())
        torch.testing.assert_close(weight[k], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(rel[k], torch.stack([y - row, x - col], -1) * 2, atol=1e-5, rtol=0)


def test_ensemble_pairs_by_index_where_neighbours_coincide():
    """Coinciding neighbours keep the areas of the opposite ones.

    In a corner all four neighbours are the same latent and the areas are equal. Along an edge two neighbours coincide.
    """
    index, _, weight = grid.ensemble(torch.tensor([[[-0.99, -0.99], [-0.99, 0.1]]]), (4, 4))
    assert index[:, 0, 0].unique().tolist() == [0]
    torch.testing.assert_close(weight[:, 0, 0], torch.full((4,), 0.25))
    assert torch.equal(index[:2, 0, 1], index[2:, 0, 1])
    near, far = weight[0, 0, 1] + weight[2, 0, 1], weight[1, 0, 1] + weight[3, 0, 1]
    torch.testing.assert_close(torch.stack([near, far]), torch.tensor([0.3, 0.7]), atol=1e-5, rtol=0)


def test_exact_tie_in_the_last_row_is_an_equal_mix():
    """At x3 the neighbours of the centre of the last latent coincide, and all areas are 1e-9."""
    _, _, weight = grid.ensemble(Grid.of(12, 12).coord()[None, -14:-13], (4, 4))
    assert torch.equal(weight[:, 0, 0], torch.full((4,), 0.25))


def test_take_and_non_contiguous_latents():
    latents = torch.arange(2 * 3 * 4 * 5.0).view(2, 5, 3, 4).permute(0, 2, 3, 1)
    index = torch.tensor([[0, 7, 11], [11, 5, 5]])
    out = grid.take(latents, index)
    for b in range(2):
        for q in range(3):
            row, col = divmod(int(index[b, q]), 4)
            assert torch.equal(out[b, q], latents[b, row, col])


def test_bilinear_is_scipy_s():
    image = torch.rand(1, 3, 6, 9, generator=torch.Generator().manual_seed(3))
    coord = coords(100, batch=1)
    position = [((coord[0, :, i] + 1) * n - 1) / 2 for i, n in enumerate((6, 9))]
    expected = [map_coordinates(c.numpy(), position, order=1, mode="nearest") for c in image[0]]
    np.testing.assert_allclose(grid.bilinear(image, coord)[0].T, expected, atol=1e-5)


def test_unfold_is_channel_major_and_contiguous():
    feat = torch.rand(2, 3, 4, 5)
    out = grid.unfold(feat)
    padded = np.pad(feat.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    assert out.is_contiguous()
    for channel, dy, dx in [(0, 0, 0), (1, 1, 1), (2, 2, 0), (0, 1, 2)]:
        expected = padded[:, channel, dy : dy + 4, dx : dx + 5]
        np.testing.assert_array_equal(out[..., 9 * channel + 3 * dy + dx], expected)


def test_clip_cell_is_lte_s_rule():
    h, w = 10, 14
    for scale in (2, 4, 7.5, 30):
        cell = torch.tensor([[2 / (h * scale), 2 / (w * scale)]])
        torch.testing.assert_close(grid.clip_cell(cell, (h, w), 4.0), cell * max(scale / 4, 1))


def held(cells, n):
    """The latent cell of each pixel of an axis and the offset from its centre, in fractions."""
    places = [Fraction(2 * i + 1, 2) * n / cells for i in range(cells)]
    numbers = [min(int(place), n - 1) for place in places]
    return numbers, [place - number - Fraction(1, 2) for place, number in zip(places, numbers, strict=True)]


@pytest.mark.parametrize(("cells", "n"), [(26, 13), (3, 6), (9, 6), (1, 5), (48, 13), (20, 13), (14000, 4001), (7, 7)])
def test_holders_are_exact(cells, n):
    """At x1.5 every third pixel lies on the border of two cells, at x0.5 every pixel."""
    target = Grid.of(cells, cells)
    (rows, offset), (columns, _) = target.holders((n, n), dtype=torch.float64)
    numbers, offsets = held(cells, n)
    assert rows.tolist() == columns.tolist() == numbers
    np.testing.assert_allclose(offset, [float(o) for o in offsets], atol=1e-11)
    if n > 1000:
        return  # float32 coordinates cannot tell on which side of a border some of these pixels lie
    flat, scattered = grid.holder(target.coord()[:: cells + 1][None], (n, n))
    assert flat[0].tolist() == [i * n + i for i in numbers]
    assert scattered.shape == (1, cells, 2)
    np.testing.assert_allclose(scattered[0, :, 0], offset, atol=2e-7 * n)


def test_holders_of_a_strip():
    whole = Grid((50.0, 31.5), (0, 48), (3, 30))  # rows of a padded picture
    part = Grid((50.0, 31.5), (20, 40), (3, 30), grid.Strip(5, 13, 16), grid.Strip(0, 9, 9))
    (rows, offset), (columns, x) = whole.holders((16, 9))
    (own_rows, own_offset), (own_columns, own_x) = part.holders((8, 9))
    assert torch.equal(own_rows + 5, rows[20:40])
    assert torch.equal(own_offset, offset[20:40])
    assert torch.equal(own_columns, columns)
    assert torch.equal(own_x, x)


def test_holder_of_what_is_outside():
    coord = torch.tensor([[-1.5, 1.5], [torch.nan, -1.0], [1.0, torch.inf]])
    index, _ = grid.holder(coord, (3, 4))
    assert index.tolist() == [3, 0, 11]
