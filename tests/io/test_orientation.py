import numpy as np
import pytest
import torch

from lmf.io import ORIENTATIONS


def test_the_eight_ways_are_those_of_numpy() -> None:
    """All rotations, and all rotations of the mirrored picture."""
    picture = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    wanted = {np.rot90(side, n, (1, 2)).tobytes() for side in (picture, picture[:, :, ::-1]) for n in range(4)}
    assert {way.apply(torch.from_numpy(picture)).numpy().tobytes() for way in ORIENTATIONS} == wanted
    assert torch.equal(ORIENTATIONS[0].apply(torch.from_numpy(picture)), torch.from_numpy(picture))


@pytest.mark.parametrize("way", ORIENTATIONS)
def test_a_picture_comes_back(way) -> None:
    picture = torch.rand(2, 3, 4, 7)
    laid = way.apply(picture)
    assert laid.shape[-2:] == way.size((4, 7))
    assert torch.equal(way.undo(laid), picture)
