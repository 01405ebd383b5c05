import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmf import grid
from lmf.decoders.diif import DIIF, pixel_span
from lmf.grid import Grid


def decoder(slicing, **options):
    torch.manual_seed(0)
    return DIIF(4, [12, 10], [9, 7], slicing=slicing, **options).eval()


@pytest.mark.parametrize("size", [(12, 15), (10, 11), (31, 8), (4, 5), (3, 2)])
def test_pixel_span_is_the_pixels_whose_centres_lie_in_the_cell(size):
    h, w = 4, 5
    target = Grid.of(*size)
    index = torch.arange(h * w)
    start, end = pixel_span(grid.latent_centre(index, (h, w)), torch.tensor([target.cell]), (h, w))
    for axis, (n, cells) in enumerate(zip((h, w), size, strict=True)):
        centres = -1 + (2 * np.arange(cells) + 1) / cells
        for k in range(n):
            inside = centres[(centres >= -1 + 2 * k / n - 1e-9) & (centres < -1 + 2 * (k + 1) / n - 1e-9)]
            if len(inside):
                place = k * w if axis == 0 else k
                expected = [(c + 1 - (2 * k + 1) / n) * n for c in (inside[0], inside[-1])]
                assert [start[place, axis].item(), end[place, axis].item()] == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("slicing", ["linear", "constant"])
def test_is_coarse_then_fine_layers(slicing):
    """Compute each pixel separately: list the pixels of its latent for the slice ends and apply both MLPs directly."""
    model, size, (h, w) = decoder(slicing), (9, 13), (3, 4)
    target, feat = Grid.of(*size), torch.rand(1, 4, h, w)
    coord, cell = target.coord()[None], torch.tensor([target.cell])
    out = model.decode(model.latent(feat, torch.zeros(1, 3, h, w), cell), coord, cell)
    index = grid.nearest(coord[0], (h, w))
    unfolded = grid.unfold(feat).view(h * w, -1)
    centre = grid.latent_centre(index, (h, w))
    rel = (coord[0] - centre) * torch.tensor([h, w])
    for q in range(len(index)):
        mates = rel[(index == index[q]) & ((slicing == "constant") | (coord[0, :, 0] == coord[0, q, 0]))]
        vector = model.coarse(torch.cat([unfolded[index[q]], mates[0], mates[-1]])).relu()
        torch.testing.assert_close(out[0, q], model.fine(torch.cat([vector, rel[q]])), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("slicing", ["linear", "constant"])
def test_a_query_depends_on_no_other(slicing):
    model, target = decoder(slicing), Grid.of(22, 31)
    feat, image = torch.rand(2, 4, 6, 7), torch.zeros(2, 3, 6, 7)
    coord, cell = target.coord().expand(2, -1, 2), torch.tensor([target.cell]).expand(2, 2)
    latent = model.latent(feat, image, cell)
    whole = model.query(latent, coord, cell)
    some = torch.randperm(22 * 31)[:25]
    torch.testing.assert_close(model.query(latent, coord[:, some], cell), whole[:, some])


@torch.no_grad()
@pytest.mark.parametrize(("slicing", "most"), [("linear", 4.5), ("constant", 1.5)])
def test_cost_grows_far_slower_than_pixels(slicing, most):
    """An enlargement by 8 has 16 times as many pixels as one by 2."""
    model = DIIF(slicing=slicing)
    macs = []
    for scale in (2, 8):
        target = Grid.of(8 * scale, 8 * scale)
        coord, cell = target.coord()[None], torch.tensor([target.cell])
        with FlopCounterMode(display=False) as counter:
            model.query(model.latent(torch.rand(1, 64, 8, 8), torch.zeros(1, 3, 8, 8), cell), coord, cell)
        macs.append(counter.get_total_flops())
    assert macs[1] < most * macs[0]
