"""Resuming with other options than a run was started with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

# How far a schedule has come. All else in its state follows from its options.
PROGRESS = ("last_epoch", "_step_count", "_last_lr", "num_bad_epochs", "best", "cooldown_counter")
Value = str | int | float | bool | None


def apply_options(checkpoint: dict[str, Any], optimizer: Optimizer, scheduler: LRScheduler | None) -> None:
    """Gives the optimiser and the schedule saved in ``checkpoint`` the options of freshly made ones, in place.

    Moments and progress stay. The current learning rate is scaled by the ratio of the new initial rate to the old one,
    so that a schedule which multiplies the current rate continues from the right one. With unchanged options the
    checkpoint does not change.

    Args:
        checkpoint: of Lightning, with ``optimizer_states`` and ``lr_schedulers``.
        optimizer, scheduler: as the options of this run make them, before any step.
    """
    for state in checkpoint.get("optimizer_states", [])[:1]:
        for saved, fresh in zip(state["param_groups"], optimizer.param_groups, strict=False):
            before, now = (group.get("initial_lr", group["lr"]) for group in (saved, fresh))
            rate = saved["lr"] if before == now else saved["lr"] * (now / before) if before else now
            cycled = {key: saved[key] for key in ("betas", "momentum") if "max_momentum" in saved and key in saved}
            options = {key: value for key, value in fresh.items() if key != "params"}
            saved.update({**options, **cycled, "lr": rate})
    if scheduler is None:
        return
    fresh_state = scheduler.state_dict()
    for state in checkpoint.get("lr_schedulers", [])[:1]:
        progress = {key: state[key] for key in PROGRESS if key in state}
        state.update({**fresh_state, **progress})


def changes(
    before: Mapping[str, Any], now: Mapping[str, Any], ignore: tuple[str, ...] = ()
) -> list[tuple[str, Value, Value]]:
    """The options that differ between two configs, as (dotted name, before, now).

    Args:
        before, now: nested mappings of plain values.
        ignore: top-level names that are left out.
    """
    old, new = dict(flat(before)), dict(flat(now))
    names = [name for name in {**old, **new} if name.partition(".")[0] not in ignore]
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Value]]:
    """The plain values in nested mappings, each with its dotted name; lists count as values."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config
