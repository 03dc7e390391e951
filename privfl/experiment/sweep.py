"""A sweep: one configuration trained under every combination of some settings, several seeds each.

Every combination and seed is a run of its own in one folder, with its own ledger and report. So a sweep that was
interrupted, or that gets further values, goes on where its runs stand.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from privfl.engine.pool import do_pieces, usable_cores
from privfl.errors import ConfigError, PrivflError
from privfl.experiment.config import Config
from privfl.experiment.experiment import Experiment
from privfl.experiment.folder import RunFolder
from privfl.experiment.workers import single_threaded
from privfl.files import made_folder, user_path

MAX_RUNS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Sweep:
    """The runs of a sweep.

    Attributes:
        config: The settings that all runs share.
        over: The values of each varied setting, by key, such as `{"sum.scheme": ("plain", "masked")}`.
        seeds: The runs of each combination; their seeds count up from the configuration's.

    Raises:
        ConfigError: A key or value is not allowed, a value is there twice, or `over` varies the name or the seed.
    """

    config: Config
    over: Mapping[str, Sequence[Any]]
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"seeds must be at least 1, not {self.seeds}")
        for key, values in self.over.items():
            if key in ("name", "seed"):
                raise ConfigError(f"a sweep names its runs and counts its seeds: leave {key!r} out, and set seeds")
            if not values:
                raise ConfigError(f"{key} has no value to try: give one or more")
            if len({repr(value) for value in values}) < len(values):
                raise ConfigError(f"{key} has a value twice: give each once")
        multiplier = self.config.privacy.noise_multiplier
        if "privacy.epsilon" in self.over and multiplier is not None:
            raise ConfigError(
                f"privacy.noise_multiplier = {multiplier:g} is fixed, so privacy.epsilon would only end runs early: "
                "remove it (--set privacy.noise_multiplier=), and each epsilon gets the noise that it needs"
            )
        names = [config.name for config in self.runs()]
        if len(set(names)) < len(names):
            raise ConfigError("two combinations would be kept under one name: give values that differ in their text")

    def runs(self) -> list[Config]:
        """The configuration of every run, the seeds of one combination next to each other."""
        combinations = list(itertools.product(*self.over.values()))
        if len(combinations) * self.seeds > MAX_RUNS:
            raise ConfigError(f"{len(combinations) * self.seeds} runs are more than a sweep holds, {MAX_RUNS}")
        found = []
        for values, shift in itertools.product(combinations, range(self.seeds)):
            seed = self.config.seed + shift
            settings = dict(zip(self.over, values, strict=True))
            parts = [f"{key}={_word(value)}" for key, value in settings.items()]
            found.append(
                self.config.with_overrides(settings | {"seed": seed, "name": ",".join([*parts, f"seed={seed}"])})
            )
        return found


@dataclass(frozen=True, slots=True)
class SweepStep:
    """One run of a sweep that is done.

    Attributes:
        name: The name of the run.
        metric: The first metric of its last evaluation, as (name, value); None where nothing was evaluated.
        error: The reason why it has no result; empty for a run that came to its end.
    """

    name: str
    metric: tuple[str, float] | None = None
    error: str = ""


def run_sweep(sweep: Sweep, folder: Path | str, *, workers: int | None = None) -> Iterator[SweepStep]:
    """Train every run of a sweep that is not finished, and yield each as it is done.

    A run whose settings contradict each other, whose budget ends it, or whose folder holds other settings does not end
    the sweep: its step has the reason.

    Args:
        sweep: The runs.
        folder: The folder of the runs, made if it is absent inside a folder that exists.
        workers: The number of runs at a time; as many as there are cores by default.
    """
    folder = made_folder(user_path(folder))
    configs = sweep.runs()

    def work(number: int) -> Any:
        config = configs[number]
        try:
            evaluation = Experiment(config, runs=folder).run(resume=True).evaluation
        except PrivflError as error:
            return [str(error), None]
        return ["", next(iter(evaluation.items()), None)]

    left = []
    for number, config in enumerate(configs):
        finished = RunFolder(folder / config.name)
        reports = finished.reports() if finished.exists else []
        if len(reports) >= config.rounds:
            error, metric = work(number)  # trains nothing, and refuses a folder of other settings
            yield _step(config, error, metric)
        else:
            left.append(number)
    processes = usable_cores() if workers is None else workers
    for number, (error, metric) in do_pieces(work, left, processes, initializer=single_threaded):
        yield _step(configs[number], error, metric)


def _step(config: Config, error: str, metric: Sequence[Any] | None) -> SweepStep:
    return SweepStep(config.name, None if metric is None else (str(metric[0]), float(metric[1])), error)


def _word(value: Any) -> str:
    """A value in a folder's name."""
    return "".join(letter if letter.isalnum() or letter in "._+-" else "_" for letter in str(value).lstrip("/"))
