import numpy as np
import pytest
import torch

from lmf.kernels.region import Region


@pytest.mark.parametrize("seed", range(4))
def test_regions_hold_the_columns_of_their_cells(seed):
    """Use cells of 0 to 3 columns that overlap by up to 2, in blocks of 0 to 3 rows."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.rand(6, 9, generator=generator) < 0.4
    rows = torch.randint(0, 4, (7,), generator=generator).cumsum(0)
    left = torch.randint(0, 3, (9,), generator=generator).cumsum(0)
    right = torch.maximum(left, left + torch.randint(0, 4, (9,), generator=generator)).cummax(0).values
    size = (int(rows[-1]) + 2, int(right[-1]) + 1)
    expected = torch.zeros(size, dtype=torch.bool)
    for i, j in cells.nonzero().tolist():
        expected[rows[i] : rows[i + 1], left[j] : right[j]] = True
    region = Region.of(size, *(t.numpy() for t in (rows, cells, left, right)))
    # A run of cells also covers the columns between two of them.
    between = right[:-1] < left[1:]
    for i, j in (cells[:, 1:] & cells[:, :-1] & between).nonzero().tolist():
        expected[rows[i] : rows[i + 1], right[j] : left[j + 1]] = True
    assert torch.equal(region.mask, expected)
    assert region.pixels == expected.sum()
    starts, ends = region.runs.unbind(1)
    apart = torch.ones(len(starts), dtype=torch.bool)
    apart[region.first[:-1].clamp(max=len(starts) - 1)] = False  # the first run of a block has no predecessor
    assert (starts[apart] >= ends[:-1][apart[1:]]).all()


def test_nothing_and_everything():
    rows, columns = np.array([0, 2, 5]), np.arange(4)
    nothing = Region.of((5, 4), rows, np.zeros((2, 4), dtype=np.bool_), columns, columns + 1)
    assert nothing.pixels == 0
    assert not nothing.mask.any()
    whole = Region.whole((5, 4), 2)
    assert whole.rows.tolist() == [0, 2, 4, 5]
    assert whole.pixels == 20
    assert whole.mask.all()
