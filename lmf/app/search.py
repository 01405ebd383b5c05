"""Searches values with Optuna: proposes the overrides of jobs, runs them, and learns from their results.

The search is stored in the folder of the sweep, so the same command continues it. Jobs that were interrupted run again
in their folders.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from lmf.app.collect import higher_is_better, objective
from lmf.errors import UserError, needed, one_line

with needed("search"):
    import optuna
    import sqlalchemy.exc
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.exceptions import StorageInternalError
    from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

log = logging.getLogger(__name__)

STORAGE_ERRORS = (ImportError, ValueError, OSError, StorageInternalError, sqlalchemy.exc.SQLAlchemyError)

Space = dict[str, BaseDistribution]
SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "tpe": partial(TPESampler, constant_liar=True),  # also learns from jobs that still run
    "random": RandomSampler,
    "cmaes": CmaEsSampler,
}


class Search:
    """A search over values of overrides.

    Args:
        trials: number of jobs of the whole search. Those of earlier calls count unless they failed.
        parallel: jobs that are started at once.
        metric: column of the results; the value of a job is its mean over them. None chooses PSNR, or the time of a
            benchmark.
        storage: URL of Optuna's storage.
        sampler: ``tpe``, ``random`` or ``cmaes``.
        seed: seed of the sampler.
        params: values to search, by key, as on the command line.

    Raises:
        UserError: if an option is out of range.
    """

    def __init__(
        self,
        trials: int,
        parallel: int,
        metric: str | None,
        storage: str,
        sampler: str,
        seed: int,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value in (("trials", trials), ("parallel", parallel)):
            if type(value) is not int or value < 1:
                raise UserError(f"hydra.sweeper.{name} must be a whole number of at least 1, got {value!r}")
        if sampler not in SAMPLERS:
            raise UserError(f"hydra.sweeper.sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        self.trials, self.parallel, self.metric = trials, parallel, metric
        self.storage, self.sampler, self.seed = storage, sampler, seed
        self.params = dict(params or {})

    def run(self, launcher: Launcher, config: DictConfig, arguments: Sequence[str]) -> None:
        """Run the search until it has the wanted number of trials.

        Args:
            launcher: runs the jobs.
            config: the composed config.
            arguments: overrides of the command line.

        Raises:
            UserError: if there is nothing to search, a value cannot be searched, or the storage cannot be used.
        """
        folder = Path(str(config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        own = [f"{key}={value}" for key, value in self.params.items()]
        space, fixed = split(OverridesParser.create().parse_overrides([*own, *arguments]))
        study = self.study(space, config.task.name)
        self.failed_before = count(study, TrialState.FAIL)
        while trials := self.next_trials(study, space):
            for _, group in groupby(enumerate(trials), key=lambda pair: pair[1].number - pair[0]):
                batch = [trial for _, trial in group]  # consecutive numbers, which are the numbers of the jobs
                jobs = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in batch]
                launcher.launch(jobs, initial_job_idx=batch[0].number)
                for trial in batch:
                    self.tell(study, trial.number, folder / str(trial.number))
        self.conclude(study)

    def study(self, space: Space, task: str) -> optuna.Study:
        """Create or continue the study.

        Raises:
            UserError: if the storage cannot be used.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.column = self.metric or ("total_s" if task == "benchmark" else "psnr")
        direction = StudyDirection.MAXIMIZE if higher_is_better(self.column) else StudyDirection.MINIMIZE
        try:
            study = optuna.create_study(
                storage=self.storage, study_name="search", direction=direction, load_if_exists=True
            )
        except STORAGE_ERRORS as error:
            raise UserError(f"hydra.sweeper.storage={self.storage}: {one_line(error)}") from error
        # The sampler of a continued study must not repeat the random numbers of its first call.
        study.sampler = SAMPLERS[self.sampler](seed=self.seed + len(study.trials))
        return study

    def next_trials(self, study: optuna.Study, space: Space) -> list[Any]:
        """Return interrupted trials of an earlier call, else new ones; none if the search is complete."""
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if running:
            return list(running[: self.parallel])
        missing = self.trials - (len(study.trials) - self.failed_before)
        return [study.ask(space) for _ in range(max(0, min(self.parallel, missing)))]

    def tell(self, study: optuna.Study, number: int, job: Path) -> None:
        """Report the result in the folder of a job; a job without one has failed."""
        value = objective(job, self.metric)
        if value is None:
            study.tell(number, state=TrialState.FAIL)
        else:
            study.tell(number, value)

    def conclude(self, study: optuna.Study) -> None:
        """Log the best trial."""
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not complete:
            raise UserError(f"none of the {len(study.trials)} jobs has a result in the column {self.column}")
        best = study.best_trial
        chosen = " ".join(f"{key}={value}" for key, value in best.params.items())
        log.info(f"best of {len(study.trials)} jobs: {best.number} with {best.value:.4g}: {chosen}")


def count(study: optuna.Study, *states: TrialState) -> int:
    """Return the number of trials in some states."""
    return len(study.get_trials(deepcopy=False, states=states))


def split(overrides: Sequence[Override]) -> tuple[Space, list[str]]:
    """Split overrides into values to search and fixed ones.

    Raises:
        UserError: if there is nothing to search, or a value cannot be searched.
    """
    space: Space = {}
    fixed: list[str] = []
    for override in overrides:
        if override.is_sweep_override():
            space[override.get_key_element()] = distribution(override)
        else:
            fixed.append(str(override.input_line))
    if not space:
        raise UserError("nothing to search; give a range, such as schedule.optimizer.lr=interval(1e-4,1e-2)")
    return space, fixed


def distribution(override: Override) -> BaseDistribution:
    """Return Optuna's distribution for the value of an override.

    Raises:
        UserError: if it cannot be searched.
    """
    value: Any = override.value()
    logarithmic = "log" in getattr(value, "tags", ())
    try:
        if isinstance(value, ChoiceSweep):
            return CategoricalDistribution([str(x) for x in override.sweep_iterator(Transformer.encode)])
        if isinstance(value, RangeSweep):
            if value.start is None or value.stop is None:
                raise ValueError("it has no end")
            count = math.ceil((value.stop - value.start) / value.step - 1e-9)  # as in Hydra, without the end
            last = value.start + (count - 1) * value.step
            if isinstance(value.start, int) and isinstance(value.stop, int) and isinstance(value.step, int):
                return IntDistribution(value.start, int(last), logarithmic, value.step)
            return FloatDistribution(value.start, last, logarithmic, value.step)
        if isinstance(value, IntervalSweep):
            if value.start is None or value.end is None:
                raise ValueError("it has no end")
            if isinstance(value.start, int) and isinstance(value.end, int):
                return IntDistribution(value.start, value.end, logarithmic)
            return FloatDistribution(value.start, value.end, logarithmic)
    except ValueError as error:
        raise UserError(f"cannot search {override.input_line}: {one_line(error)}") from error
    raise UserError(f"cannot search {override.input_line}: give a,b,c, range(1,9) or interval(0.1,0.9)")
