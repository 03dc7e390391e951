"""The options that describe a run before it is run, which `epsilon` and `calibrate` share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from privfl.cli.options import plot_file
from privfl.dp import (
    Everyone,
    FixedSize,
    OnePass,
    Plan,
    Poisson,
    PrivacyUnit,
    RandomAllocation,
    Sampling,
    Slot,
    TruncatedPoisson,
    default_delta,
)
from privfl.dp.accounting.report import check_small_delta, delta_caveat
from privfl.dp.release import SHARED
from privfl.errors import ConfigError
from privfl.files import user_path
from privfl.observers import Observer, Views

UNITS: Final = 1 << 20
"""Integer units of one clip norm in a planned run, unless it says otherwise: finer units cost nothing measurable."""


class SamplingName(StrEnum):
    """The sampling of a cohort."""

    POISSON = "poisson"
    TRUNCATED_POISSON = "truncated-poisson"
    FIXED_SIZE = "fixed-size"
    EVERYONE = "everyone"
    ALLOCATION = "allocation"
    ONE_PASS = "one-pass"  # noqa: S105 - a pass over clients


class Adjacency(StrEnum):
    """The difference between two neighboring data sets."""

    ADD_REMOVE = "add_remove"
    REPLACE_ONE = "replace_one"
    ZERO_OUT = "zero_out"


class Level(StrEnum):
    """The unit whose presence is hidden."""

    CLIENT = "client"
    EXAMPLE = "example"


class PlacementName(StrEnum):
    """The place at which the noise is added."""

    CENTRAL = "central"
    DISTRIBUTED = "distributed"
    MESH = "mesh"
    LOCAL = "local"


class CorrelationName(StrEnum):
    """The correlation of the noise of one round with the noise of other rounds."""

    NONE = "none"
    TOEPLITZ = "toeplitz"


class ObserverName(StrEnum):
    """The observer against which epsilon is stated."""

    OUTSIDER = "outsider"
    PARTICIPANT = "participant"
    SERVER = "server"
    KEY_HOLDER = "key_holder"


SamplingOption = Annotated[SamplingName | None, typer.Option("--sampling", help="How cohorts are sampled.")]
Population = Annotated[int | None, typer.Option("--population", min=1, help="Clients that exist.")]
Cohort = Annotated[int | None, typer.Option("--cohort", min=1, help="Clients of one round, on average or exactly.")]
Cap = Annotated[int | None, typer.Option("--cap", min=1, help="Most clients of a round (truncated-poisson).")]
Selected = Annotated[
    int | None, typer.Option("--selected", min=1, help="Rounds of a block with a given client (allocation).")
]
Block = Annotated[int | None, typer.Option("--block", min=1, help="Rounds of a block (allocation); all if absent.")]
Rounds = Annotated[int | None, typer.Option("--rounds", min=1, help="Rounds.")]
DatasetSize = Annotated[int | None, typer.Option("--dataset-size", min=1, help="Examples of the data (unit example).")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Examples of a batch, on average (unit example).")
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps (unit example).")]
UnitOption = Annotated[Level, typer.Option("--unit", help="Whose presence is hidden.")]
AdjacencyOption = Annotated[Adjacency, typer.Option("--adjacency", help="What presence means.")]
ObserverOption = Annotated[
    ObserverName, typer.Option("--observer", help="The observer that the promise protects against.")
]
DeltaOption = Annotated[
    float | None, typer.Option("--delta", help="Chance that the promise fails; 1e-5 if absent, which is said.")
]
LargeDelta = Annotated[
    bool, typer.Option("--allow-large-delta", help="Take a delta of 1/population or more, which promises little.")
]
PlacementOption = Annotated[PlacementName, typer.Option("--placement", help="Where the noise is added.")]
Length = Annotated[
    int | None, typer.Option("--length", min=1, help="Entries of the summed vector (distributed and mesh noise).")
]
Spare = Annotated[
    int | None, typer.Option("--spare", min=0, help="Mesh noise: most members of one coalition.", show_default="1")
]
Units = Annotated[
    int | None,
    typer.Option("--units", min=1, help="Integer units of a clip norm: scale times clip (distributed; default 2^20)."),
]
CorrelationOption = Annotated[
    CorrelationName, typer.Option("--correlation", help="Noise across rounds (central, one-pass).")
]
SumOption = Annotated[
    str | None,
    typer.Option("--sum", metavar="NAME", help="The secure sum; needed for observers other than the outsider."),
]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", parser=plot_file, help="Draw what was asked for: .png, .pdf or .svg."),
]
AtSites = Annotated[
    bool, typer.Option("--at-sites", help="Each site samples its own examples, through the sum (unit example).")
]
GroupOption = Annotated[
    int, typer.Option("--group", min=1, help="Units that change together, such as the clients of one person.")
]
SweepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep", metavar="KEY=A,B,...", help="Ask for each value of an option, such as noise_multiplier=0.5,1,2."
    ),
]
CsvOption = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", parser=user_path, help="Write the table as a CSV file.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A run as the options describe it; None where an option was not given.

    Attributes:
        unit: Whose presence is hidden.
        adjacency: What presence means.
        sampling: How cohorts are sampled.
        population: Clients that exist.
        cohort: Clients of one round, on average or exactly.
        cap: Most clients of a round.
        selected: Rounds of a block in which a client takes part.
        block: Rounds of a block; None takes all rounds.
        rounds: Number of rounds.
        dataset_size: Examples of the data.
        batch_size: Examples of a batch, on average.
        steps: Number of optimizer steps.
        placement: Where the noise is added.
        length: Entries of the summed vector.
        units: Integer units of a clip norm; None takes `UNITS`.
        spare: Members of mesh noise that one coalition may hold; None is 1.
        correlation: How the noise of the rounds depends on each other.
        sum_name: The secure sum.
        noise_multiplier: Noise standard deviation divided by the norm bound of one contribution.
        delta: Probability with which the promise may fail.
        group: Units that change together.
        at_sites: Whether each site samples its own examples by coins that no other party knows.
    """

    unit: Level = Level.CLIENT
    adjacency: Adjacency = Adjacency.ADD_REMOVE
    sampling: SamplingName | None = None
    population: int | None = None
    cohort: int | None = None
    cap: int | None = None
    selected: int | None = None
    block: int | None = None
    rounds: int | None = None
    dataset_size: int | None = None
    batch_size: int | None = None
    steps: int | None = None
    placement: PlacementName = PlacementName.CENTRAL
    length: int | None = None
    units: int | None = None
    spare: int | None = None
    correlation: CorrelationName = CorrelationName.NONE
    sum_name: str | None = None
    noise_multiplier: float | None = None
    delta: float | None = None
    group: int = 1
    at_sites: bool = False

    def plan(self, observer: Observer = "outsider", *, noise_multiplier: float | None = None) -> Plan:
        """The plan that the options describe.

        Args:
            observer: The observer against which epsilon is stated.
            noise_multiplier: The noise, where the options give none.

        Raises:
            ConfigError: An option is missing, or does not go with the others.
        """
        if self.at_sites and self.unit is Level.CLIENT:
            raise ConfigError("--at-sites is about examples: add --unit example, or leave it out")
        how, count = self.sampled()
        noise = self.noise_multiplier if noise_multiplier is None else noise_multiplier
        if noise is None:
            raise ConfigError("--noise-multiplier is missing; `privfl calibrate` finds the least for an epsilon")
        return Plan(
            sampling=how,
            noise_multiplier=noise,
            rounds=count,
            unit=PrivacyUnit(self.unit.value, self.adjacency.value),
            observer=observer,
            placement=self.placement.value,
            slots=self._slots(),
            views=views_of(self.sum_name),
            spare=self._spare(),
            correlation=self.correlation.value,
            draw_known_to="site" if self.at_sites else None,
            group=self.group,
        )

    def sampled(self) -> tuple[Sampling, int]:
        """The sampling and the number of releases.

        Raises:
            ConfigError: An option is missing, or one that this kind of run does not take.
        """
        clients = {
            "--population": self.population,
            "--cohort": self.cohort,
            "--cap": self.cap,
            "--selected": self.selected,
            "--block": self.block,
            "--rounds": self.rounds,
            "--sampling": self.sampling,
        }
        examples = {"--dataset-size": self.dataset_size, "--batch-size": self.batch_size, "--steps": self.steps}
        if self.unit is Level.EXAMPLE:
            _refuse(clients, "--unit example")
            _need(examples, ("--dataset-size", "--batch-size", "--steps"), "--unit example")
            probability = _fraction(self.batch_size, self.dataset_size, "--batch-size", "--dataset-size")
            return Poisson(probability), int(self.steps or 0)
        _refuse(examples, "--unit client")
        how = self.sampling or (SamplingName.EVERYONE if self.cohort is None else SamplingName.POISSON)
        return _of_clients(how, clients, self)

    def chosen_delta(self, *, allow_large: bool) -> tuple[float, str]:
        """The delta that was asked for or a default, and the reason.

        Args:
            allow_large: Take a delta of 1/units or more.

        Raises:
            ConfigError: The delta is that large.
        """
        return choose_delta(self.delta, self.population or self.dataset_size, allow_large=allow_large)

    def _slots(self) -> tuple[Slot, ...]:
        """The vector of a planned run, which noise of several clients is judged by."""
        if self.placement.value not in SHARED:
            _refuse({"--length": self.length, "--units": self.units}, f"--placement {self.placement.value}")
            return ()
        _need({"--length": self.length}, ("--length",), f"--placement {self.placement.value}")
        return (Slot("update", int(self.length or 0), float(self.units or UNITS), 1.0),)

    def _spare(self) -> int:
        """The members of mesh noise that one coalition may hold."""
        if self.placement is not PlacementName.MESH:
            _refuse({"--spare": self.spare}, f"--placement {self.placement.value}")
        return 1 if self.spare is None else self.spare


def _of_clients(how: SamplingName, clients: Mapping[str, object], run: PlannedRun) -> tuple[Sampling, int]:
    what = f"--sampling {how.value}"
    if how is SamplingName.ALLOCATION:
        _refuse({"--cohort": run.cohort, "--cap": run.cap}, what)
        _need(clients, ("--selected", "--rounds"), what)
        return RandomAllocation(int(run.selected or 0), int(run.block or run.rounds or 0)), int(run.rounds or 0)
    _refuse({"--selected": run.selected, "--block": run.block}, what)
    if how is SamplingName.EVERYONE:
        _refuse({"--cohort": run.cohort, "--cap": run.cap}, what)
        _need(clients, ("--rounds",), what)
        return Everyone(), int(run.rounds or 0)
    if how is SamplingName.ONE_PASS:
        _refuse({"--cap": run.cap}, what)
        _need(clients, ("--cohort", "--rounds"), what)
        return OnePass(int(run.cohort or 0)), int(run.rounds or 0)
    needs = ("--population", "--cohort", "--rounds") + (("--cap",) if how is SamplingName.TRUNCATED_POISSON else ())
    _need(clients, needs, what)
    if how is not SamplingName.TRUNCATED_POISSON:
        _refuse({"--cap": run.cap}, what)
    if how is SamplingName.FIXED_SIZE:
        return FixedSize(int(run.cohort or 0), int(run.population or 0)), int(run.rounds or 0)
    probability = _fraction(run.cohort, run.population, "--cohort", "--population")
    if how is SamplingName.POISSON:
        return Poisson(probability), int(run.rounds or 0)
    return TruncatedPoisson(probability, int(run.cap or 0), int(run.population or 0)), int(run.rounds or 0)


def views_of(name: str | None) -> Views | None:
    """The views of each observer of the sum of this name, such as "masked"; None without a name."""
    if name is None:
        return None
    from privfl.experiment.config import Config
    from privfl.experiment.schemes import describe

    return describe(name).views(Config())


def choose_delta(delta: float | None, units: int | None, *, allow_large: bool) -> tuple[float, str]:
    """Return the delta that was asked for, or a default, and the reason.

    Args:
        delta: The delta that was asked for.
        units: The number of clients or examples, where it is known.
        allow_large: Take a delta of 1/units or more.

    Raises:
        ConfigError: The delta is that large.
    """
    if delta is not None:
        if units is not None and not allow_large:
            check_small_delta(delta, units, setting="--delta", flag="give --allow-large-delta")
        caveat = delta_caveat(delta, units or 1)
        return delta, f" ({caveat})" if caveat else ""
    chosen, _ = default_delta(units or 1)
    return chosen, " (the default: the smaller of 1e-5 and 1/units^1.1; it bounds the chance of a failure)"


def _fraction(count: int | None, total: int | None, count_name: str, total_name: str) -> float:
    if count is None or total is None or count > total:
        raise ConfigError(f"{count_name} {count} is more than {total_name} {total}")
    return count / total


def _refuse(options: Mapping[str, object], what: str) -> None:
    given = next((name for name, value in options.items() if value is not None), None)
    if given is not None:
        raise ConfigError(f"{what} does not take {given}")


def _need(options: Mapping[str, object], names: tuple[str, ...], what: str) -> None:
    missing = next((name for name in names if options[name] is None), None)
    if missing is not None:
        raise ConfigError(f"{what} needs {missing}")
