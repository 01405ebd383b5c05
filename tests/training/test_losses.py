import torch

from lmf.training.losses import RangeL1


def test_colours_out_of_range_cost_their_squared_distance_too():
    rgb, target = torch.tensor([0.5, -3.0, 1.05, 1.2]), torch.tensor([0.0, -1.0, 1.0, 1.0])
    plain = (0.5 + 2.0 + 0.05 + 0.2) / 4
    torch.testing.assert_close(RangeL1(0.1, 2.0)(rgb, target).item(), plain + 2 * (1.9**2 + 0.1**2) / 4)
    torch.testing.assert_close(RangeL1()(target, target).item(), 0.0)
