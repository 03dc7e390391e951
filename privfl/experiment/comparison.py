"""The settings of a comparison: its arms, their configurations, and the noise that its epsilons need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from privfl.dp import Everyone, Poisson, PrivacyUnit, Sampling, calibrate, what_if
from privfl.errors import ConfigError
from privfl.experiment.arms import Arm
from privfl.experiment.config import Config, from_mapping, to_mapping
from privfl.experiment.federation import load, schema_of, with_named_columns
from privfl.experiment.presets import EXAMPLE_PRESETS, HEADLINES, PRESETS, REGRESSIONS, tuned_on
from privfl.experiment.schemes import SCHEMES

DELTA: Final = 1e-5
INSIDE: Final = ("distributed", "mesh")
"""The placements of noise that the clients add inside a sum."""

Unit = Literal["client", "example"]
_MASKED: Final[Mapping[str, Any]] = {"cohort.min_survivor_fraction": 0.9, "sum.scheme": "masked"}
_OF_EXAMPLES: Final = ("unit", "clip_norm", "sampling_probability", "denominator", "person")
_WARNINGS: Final[Mapping[Unit, str]] = {
    "client": (
        "Hyper-parameters were fixed beforehand and are equal in all arms. Epsilon is of one run, against an outsider, "
        "and excludes tuning and other seeds."
    ),
    "example": (
        "Hyper-parameters were fixed beforehand and are equal in all arms. Epsilon is of one run and of one example, "
        "and excludes tuning and other seeds. Independent sites are sampled as one noise with their variances together."
    ),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison's settings; raises `ConfigError` for an unknown data set or sum, or settings that rule out an arm.

    Attributes:
        data: The data set, a key of `PRESETS`.
        clients: The number of clients, unless the partition is natural.
        partition: The split of the examples among clients, as in `data.partition`.
        rounds: The rounds of each run, which are single steps for unit "example". 0 takes 10, or the preset's steps.
        epsilons: The targets of central noise, above 0. Every other placement gets noise of the same multipliers.
        seeds: The runs of each arm, at least 1, except that an arm of a sum has one; their seeds count from 0.
        sums: The names of the sums to measure, keys of `SCHEMES`.
        folder: The folder of the data set's files; None takes the default.
        metric: The metric that is compared; empty for the first of `HEADLINES` that the task has.
        unit: The unit of epsilon: "client", a client with all its examples, or "example", one example of one client.
        base: The settings of a configuration file that takes the place of the preset, by section; see `of`.
    """

    data: str = "digits"
    clients: int = 32
    partition: str = "dirichlet:1"
    rounds: int = 0
    epsilons: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    seeds: int = 3
    sums: tuple[str, ...] = tuple(SCHEMES)
    folder: str | None = None
    metric: str = ""
    unit: Unit = "client"
    base: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config, **settings: Any) -> Comparison:
        """The comparison of a configuration: its data, model, training, unit and clip norm, in every arm.

        Its sum and its noise give way to those of the arms.

        Args:
            config: The configuration.
            settings: The attributes `epsilons`, `seeds`, `sums` and `metric`, where they are not the defaults.

        Raises:
            ConfigError: The configuration samples cohorts, or standardizes without noise, or its sites sample examples
                with several probabilities or share persons.
        """
        config = with_named_columns(config)
        data = config.data
        if data.standardize == "noisy":
            raise ConfigError("data.standardize = 'noisy' needs noise, and some arms have none: set 'public' or 'none'")
        if data.standardize in ("exact", "local"):
            raise ConfigError(
                f"data.standardize = {data.standardize!r} has no noise, and some arms have: set 'public' or 'none'"
            )
        if config.cohort.sampling != "everyone":
            raise ConfigError(
                f"cohort.sampling = {config.cohort.sampling!r}, and compare sizes its noise for rounds of all clients: "
                "set 'everyone'"
            )
        privacy = config.privacy
        if privacy.sampling_probabilities or privacy.sites_per_person > 1:
            raise ConfigError(
                "compare states one epsilon, of a person at one site: leave privacy.sites_per_person out, and give "
                "privacy.sampling_probability in place of privacy.sampling_probabilities"
            )
        if privacy.unit == "example" and (privacy.sampling_probability is None or privacy.denominator is None):
            raise ConfigError(
                "compare needs privacy.sampling_probability and privacy.denominator for unit 'example': set both"
            )
        base = to_mapping(config)
        given = base.pop("privacy", {})
        kept = {key: value for key, value in base.items() if key not in ("sum", "name", "seed")}
        names = _OF_EXAMPLES if privacy.unit == "example" else ("clip_norm",)
        terms = {key: given[key] for key in names if given.get(key) is not None}
        if config.buffer.size is not None:  # priced as rounds of all clients are, under this relation
            terms["adjacency"] = "zero_out"
        if terms:
            kept["privacy"] = terms
        return cls(
            data=Path(data.table).stem if data.table else data.name, clients=data.clients, partition=data.dealing,
            rounds=config.rounds, folder=data.folder, unit=privacy.unit, base=kept, **settings,
        )  # fmt: skip

    def __post_init__(self) -> None:
        presets = EXAMPLE_PRESETS if self.unit == "example" else PRESETS
        if not self.base and self.data not in presets:
            raise ConfigError(
                f"compare with unit {self.unit!r} knows the data sets {', '.join(presets)}, not {self.data!r}: for "
                "others, give a configuration file"
            )
        if not self.rounds:
            preset = 0 if self.base or self.unit == "client" else EXAMPLE_PRESETS[self.data]["rounds"]
            object.__setattr__(self, "rounds", preset or 10)
        unknown = [name for name in self.sums if name not in SCHEMES]
        if unknown or not self.sums:
            raise ConfigError(f"sums are of {', '.join(SCHEMES)}, not {unknown[0] if unknown else 'none'!r}")
        if self.seeds < 1 or not self.epsilons or min(self.epsilons) <= 0:
            raise ConfigError("compare needs at least one seed, and positive epsilons")

    @property
    def tuning(self) -> str:
        """The statement of which settings were tuned, on which data, and for which arms."""
        return tuned_on(None if self.base else self.data, self.unit)

    @property
    def warning(self) -> str:
        """The statement of what its epsilons count, and what they leave out."""
        return _WARNINGS[self.unit]

    def arms(self) -> list[Arm]:
        """All arms, the cheap ones first."""
        noise = {epsilon: self._multiplier(epsilon) for epsilon in self.epsilons}
        if self.unit == "example":
            return self._example_arms(noise)
        arms = [Arm("pooled", "pooled"), Arm("local only", "local"), Arm("FedAvg", "federated")]
        for epsilon, multiplier in sorted(noise.items()):
            arms.append(Arm(f"central DP {epsilon:g}", "central", self._private("central", multiplier), epsilon))
        for epsilon, multiplier in sorted(noise.items()):
            arms.append(Arm(f"local DP, noise of {epsilon:g}", "local DP", self._private("local", multiplier), epsilon))
        for placement in INSIDE:
            for epsilon, multiplier in sorted(noise.items()):
                inside = {**self._private(placement, multiplier), **_MASKED}
                arms.append(Arm(f"{placement} DP, noise of {epsilon:g}", placement, inside, epsilon))
        arms += [Arm(f"{name} sum", "sum", {"sum.scheme": name}) for name in self.sums]
        return arms

    def _example_arms(self, noise: Mapping[float, float]) -> list[Arm]:
        arms = [Arm("no noise", "federated")]
        for kind, placement in (("central", "central"), ("independent", "central"), *((name, name) for name in INSIDE)):
            masked = _MASKED if kind in INSIDE else {}
            for epsilon, multiplier in sorted(noise.items()):
                own = {**self._private(placement, multiplier), **masked}
                arms.append(Arm(f"{kind} DP {epsilon:g}", kind, own, epsilon))
        return arms + [Arm(f"{name} sum", "sum", {"sum.scheme": name}) for name in self.sums]

    def independent(self, config: Config, clients: int) -> Config:
        """The configuration with the noise of independent sites, as one central noise of all their variances.

        Args:
            config: The configuration of an arm of kind "independent", with the noise of one site.
            clients: The number of sites.
        """
        own = config.privacy.noise_multiplier or 0.0
        return config.with_overrides({"privacy.noise_multiplier": own * math.sqrt(clients)})

    def independent_epsilon(self, arm: Arm, clients: int = 1) -> float:
        """Epsilon against the server of sites that add noise independently, whose noises add up to that of an arm.

        Args:
            arm: An arm with noise, of unit "example".
            clients: The number of sites; 1 where the noise of the arm is that of one site.
        """
        noise = arm.overrides["privacy.noise_multiplier"] / math.sqrt(clients)
        report = what_if(
            sampling=self._sampling, noise_multiplier=noise, rounds=self.rounds, delta=DELTA,
            unit=PrivacyUnit(self.unit), cross_checks=False,
        )  # fmt: skip
        return report.epsilon

    def cells(self) -> list[tuple[Arm, int]]:
        """The runs: sums give the same model to the last bit, so one seed shows the cost of each sum."""
        return [(arm, seed) for arm in self.arms() for seed in range(1 if arm.kind == "sum" else self.seeds)]

    def config(self, arm: Arm, seed: int) -> Config:
        """The configuration of one cell.

        Args:
            arm: The way of training.
            seed: The seed of the partition and the run.
        """
        name = f"{arm.name}-{seed}".replace(" ", "-").replace(",", "")
        if self.base:
            public = {"data.test": "public"} | ({"server.weighting": "uniform"} if self.unit == "client" else {})
            return from_mapping({**self.base, "name": name, "seed": seed}).with_overrides({**public, **arm.overrides})
        settings: dict[str, Any] = {
            "data.name": self.data,
            "data.folder": self.folder,
            "data.clients": self.clients,
            "data.partition": self.partition,
            "data.test": "public",
            "data.min_examples": 5,
        }
        if self.unit == "client":
            settings |= {"client.steps": 20, "client.batch_size": 10, "server.weighting": "uniform"}
            settings |= PRESETS[self.data]
        else:
            settings |= {"privacy.unit": "example", "privacy.clip_norm": 1.0}
            settings |= {key: value for key, value in EXAMPLE_PRESETS[self.data].items() if key != "rounds"}
        settings |= arm.overrides
        return Config(name=name, seed=seed, rounds=self.rounds).with_overrides(settings)

    @property
    def metric_name(self) -> str:
        """The metric that is compared: the one asked for, or the first of `HEADLINES` that the task has."""
        if self.metric:
            return self.metric
        if not self.base:
            return HEADLINES[self.data in REGRESSIONS]
        settings = self.config(Arm("pooled", "pooled"), 0).data
        task = schema_of(settings).task if settings.table else load(settings).task
        return HEADLINES[task == "regression"]

    def figure(self, metrics: Mapping[str, float]) -> float:
        """The compared metric among those of an evaluation; raises `ConfigError` where it is absent."""
        for name in (self.metric,) if self.metric else HEADLINES:
            if name in metrics:
                return metrics[name]
        known = ", ".join(sorted(metrics)) or "none"
        raise ConfigError(f"there is no metric {self.metric or HEADLINES[0]} here: choose among {known}")

    def _private(self, placement: str, multiplier: float) -> dict[str, Any]:
        preset = {} if self.base or self.unit == "example" else PRESETS[self.data]
        clip = self.base.get("privacy", preset).get("clip_norm", preset.get("privacy.clip_norm", 1.0))
        noise = {"privacy.placement": placement, "privacy.noise_multiplier": multiplier}
        return noise | {"privacy.clip_norm": clip, "privacy.delta": DELTA}

    @property
    def _sampling(self) -> Sampling:
        if self.unit == "client":
            return Everyone()
        if self.base:
            return Poisson(self.base["privacy"]["sampling_probability"])
        return Poisson(EXAMPLE_PRESETS[self.data]["privacy.sampling_probability"])

    def _multiplier(self, epsilon: float) -> float:
        plan = calibrate(
            epsilon=epsilon,
            delta=DELTA,
            sampling=self._sampling,
            rounds=self.rounds,
            unit=PrivacyUnit(self.unit),
            draw_known_to="site" if self.unit == "example" else None,
        )
        return plan.noise_multiplier
