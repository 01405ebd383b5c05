"""Learning-rate schedules at rates worked out by hand."""

import pytest
import torch

from lmf.training.schedules import WarmupCosineLR


def test_warmup_then_cosine():
    """SRNO's: from 4e-5 to 4e-4 over 50 epochs, to 0 over the remaining 1000."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=4e-4)
    scheduler = WarmupCosineLR(optimizer, warmup=50, total=1050)
    rates = []
    for _ in range(1053):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    wanted = {0: 4e-5, 25: 2.2e-4, 50: 4e-4, 300: 4e-4 * (1 + 0.5**0.5) / 2, 550: 2e-4, 1050: 0, 1052: 0}
    assert {epoch: rates[epoch] for epoch in wanted} == pytest.approx(wanted, abs=1e-12)


def test_without_warmup_it_starts_at_the_top():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = WarmupCosineLR(optimizer, warmup=0, total=2)
    assert scheduler.get_last_lr() == [1.0]
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.5])
