import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR

from lmf.training import schedules
from lmf.training.resume import apply_options, changes


def make(lr, steps=None, milestones=None, weight_decay=0.0):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=lr, weight_decay=weight_decay)
    if steps:
        return weight, optimizer, OneCycleLR(optimizer, lr, total_steps=steps)
    return weight, optimizer, MultiStepLR(optimizer, milestones or [100], gamma=0.5)


def step(weight, optimizer, scheduler, count):
    rates = []
    for i in range(count):
        optimizer.zero_grad()
        (weight * torch.tensor([1.0, 2.0, -1.0]) * (i + 1)).sum().backward()
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def saved(optimizer, scheduler):
    return copy.deepcopy({"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()]})


def resumed(checkpoint, **options):
    """Return the state with which a run with ``options`` continues from ``checkpoint``."""
    weight, optimizer, scheduler = make(**options)
    apply_options(checkpoint, *make(**options)[1:])
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    scheduler.load_state_dict(checkpoint["lr_schedulers"][0])
    return weight, optimizer, scheduler


@pytest.mark.parametrize("options", [{"lr": 1e-3, "steps": 8}, {"lr": 1e-3, "milestones": [2, 4]}])
def test_unchanged_options_change_nothing(options):
    weight, optimizer, scheduler = make(**options)
    step(weight, optimizer, scheduler, 3)
    checkpoint = saved(optimizer, scheduler)
    before = copy.deepcopy(checkpoint)
    _, fresh, fresh_scheduler = make(**options)
    apply_options(checkpoint, fresh, fresh_scheduler)
    assert checkpoint["lr_schedulers"] == before["lr_schedulers"]
    assert checkpoint["optimizer_states"][0]["param_groups"] == before["optimizer_states"][0]["param_groups"]


def test_more_steps_follow_the_longer_cycle():
    weight, optimizer, scheduler = make(1e-3, steps=8)
    step(weight, optimizer, scheduler, 8 - 1)
    longer = step(*make(1e-3, steps=16), 15)
    assert step(*resumed(saved(optimizer, scheduler), lr=1e-3, steps=16), 8) == pytest.approx(longer[7:])


def test_another_rate_applies_after_milestones_too():
    weight, optimizer, scheduler = make(1e-3, milestones=[2, 5])
    step(weight, optimizer, scheduler, 3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(5e-4)
    rates = step(*resumed(saved(optimizer, scheduler), lr=1e-5, milestones=[2, 5]), 3)
    assert rates == pytest.approx([5e-6, 2.5e-6, 2.5e-6])


def test_other_options_of_the_optimiser_apply_and_moments_stay():
    weight, optimizer, scheduler = make(1e-3)
    step(weight, optimizer, scheduler, 3)
    moments = optimizer.state_dict()["state"][0]["exp_avg"].clone()
    _, other, _ = resumed(saved(optimizer, scheduler), lr=1e-3, weight_decay=0.1)
    assert other.param_groups[0]["weight_decay"] == 0.1
    assert torch.equal(other.state_dict()["state"][0]["exp_avg"], moments)


def test_changes_are_named():
    before = {"seed": 0, "schedule": {"optimizer": {"lr": 1e-3}, "epochs": 2}, "paths": {"runs": "a"}}
    now = {"seed": 0, "schedule": {"optimizer": {"lr": 1e-5}, "epochs": 4, "ema": 0.9}, "paths": {"runs": "b"}}
    assert changes(before, now, ignore=("paths",)) == [
        ("schedule.optimizer.lr", 1e-3, 1e-5),
        ("schedule.epochs", 2, 4),
        ("schedule.ema", None, 0.9),
    ]


def test_a_cycle_ends_at_its_lowest_rate():
    """Before its end it is PyTorch's."""

    def rates(kind):
        optimizer = torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=1e-3)
        scheduler = kind(optimizer, 1e-3, total_steps=6)
        found = []
        for _ in range(6):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found, optimizer.param_groups[0]["lr"]

    (expected, _), (ours, last) = rates(OneCycleLR), rates(schedules.OneCycleLR)
    assert ours == expected
    assert last == ours[-1] < 1e-8
