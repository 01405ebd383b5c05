import pytest
import torch
import torch.nn.functional as F

from lmf.grid import Grid
from lmf.kernels import backend
from lmf.kernels.enlarge import enlarge


@pytest.fixture(params=["compiled", "torch"])
def either(request):
    if request.param == "compiled":
        yield
    else:
        with backend("reference"):
            yield


@pytest.mark.parametrize(
    ("size", "target"), [((5, 7), (20, 28)), ((7, 9), (30, 31)), ((1, 1), (3, 2)), ((40, 3), (90, 5))]
)
def test_enlarging_is_bilinear(either, size, target):
    image = torch.rand(3, *size)
    expected = F.interpolate(image[None], target, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(enlarge(image, Grid.of(*size), Grid.of(*target)), expected, atol=1e-5, rtol=0)


def test_parts_of_grids(either):
    """Enlarge a part to a part that does not read beyond the border of the first."""
    image = torch.rand(3, 12, 14)
    whole = enlarge(image, Grid.of(12, 14), Grid((37.5, 50), (0, 37), (0, 50)))
    source, target = Grid((12, 14), (2, 9), (3, 12)), Grid((37.5, 50), (10, 26), (14, 40))
    part = enlarge(image[:, 2:9, 3:12], source, target)
    torch.testing.assert_close(part, whole[:, 10:26, 14:40], atol=1e-6, rtol=0)
