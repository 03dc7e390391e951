"""The cases of an attack: one run as a plain sum, as a masked sum, and with noise at several epsilons."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from privfl.dp import Accountant, EpsilonReport, History
from privfl.errors import ConfigError
from privfl.experiment.assemble import Assembly
from privfl.experiment.attack.dealing import DealtData, Deck, usual_norm
from privfl.experiment.audit.subject import Subject
from privfl.experiment.config import Config, Privacy
from privfl.experiment.experiment import Experiment

SERVER: Final = "server"
_INSIDE: Final = ("distributed", "mesh", "local")
_STEPS: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to run the rounds, and what the server sees of them.

    Attributes:
        name: The name of the case, for tables.
        parts: The parts of the run.
        subject: The same parts with the server as the observer.
        report: What is promised against the server; None without noise.
        group: The changes of one unit that the exchange of a client's data is: 1 or 2.
    """

    name: str
    parts: Assembly
    subject: Subject
    report: EpsilonReport | None = None
    group: int = 1

    @property
    def epsilon(self) -> float:
        """The stated epsilon against the server; infinite without noise."""
        return math.inf if self.report is None else self.report.epsilon

    def spent(self, delta: float) -> float:
        """The epsilon of the exchange of one client's data, at a delta.

        Args:
            delta: The delta, in (0, 1).
        """
        if self.report is None:
            return math.inf
        accountant = Accountant(delta, observer=SERVER, assume_secure_noise=True, group=self.group)
        return accountant.spent(self.history, quick=True)

    @property
    def history(self) -> History:
        """The releases of the attacked rounds."""
        return self.parts.planned(self.subject.rounds)


def attack_cases(config: Config, deck: Deck, *, epsilons: Sequence[float], rounds: int, seed: int) -> list[Case]:
    """The cases of a configuration: a plain and a hidden sum without noise, and noise that the server meets.

    The cases with noise clip to the configuration's norm, or else to the median norm of an update over examples of the
    attacker. Noise is placed where the configuration places it, if the server meets it there, and otherwise inside the
    hidden sum. The least noise is taken whose epsilon against the server, over the attacked rounds, is at most the
    target.

    Args:
        config: The configuration.
        deck: The examples of the trials.
        epsilons: The epsilons, in the order of the table.
        rounds: The rounds that are attacked.
        seed: The seed of the attack.

    Raises:
        ConfigError: If the settings allow no such run.
    """
    if config.cohort.sampling == "one-pass":
        raise ConfigError("an attack needs a target in every round: set cohort.sampling = 'fixed-size' or 'everyone'")
    if config.privacy.unit != "client":
        raise ConfigError(
            f"an attack compares epsilons of clients, and privacy.unit = {config.privacy.unit!r}: set it to 'client'"
        )
    data = deck.data
    hidden = "masked" if config.sum.scheme == "plain" else config.sum.scheme
    bare = {"plain update": "plain", f"{hidden} sum": hidden}
    cases = [_case(name, _without_noise(config, scheme, rounds), data, rounds) for name, scheme in bare.items()]
    clip_norm = config.privacy.clip_norm or usual_norm(cases[0].parts, deck, seed)
    for epsilon in epsilons:
        noised, report = _at_epsilon(config, hidden, epsilon, data, rounds=rounds, clip_norm=clip_norm)
        cases.append(
            Case(
                name=f"epsilon {epsilon:g}",
                parts=noised,
                subject=_subject(noised, rounds),
                report=report,
                group=1 if noised.unit.adjacency == "replace_one" else 2,
            )
        )
    return cases


def _common(config: Config, rounds: int) -> dict[str, Any]:
    return {
        "rounds": rounds,
        "evaluate_every": 0,
        "data.standardize": "none",  # the examples are prepared already
        "engine.workers": 0,
        "cohort.dropout": 0.0,
        "server.choose": "last",
        "server.patience": None,
    }


def _without_noise(config: Config, scheme: str, rounds: int) -> Config:
    bare = dataclasses.replace(config, privacy=Privacy())
    return bare.with_overrides({**_common(config, rounds), "sum.scheme": scheme})


def _case(name: str, config: Config, data: DealtData, rounds: int) -> Case:
    parts = Experiment(config, data=data).parts
    return Case(name=name, parts=parts, subject=_subject(parts, rounds))


def _subject(parts: Assembly, rounds: int) -> Subject:
    return Subject.of(parts, observer=SERVER, dropouts="none", rounds=rounds)


def _at_epsilon(
    config: Config, hidden: str, epsilon: float, data: DealtData, *, rounds: int, clip_norm: float
) -> tuple[Assembly, EpsilonReport]:
    """The parts with the least noise whose epsilon against the server is at most a target, to a thousandth."""
    privacy = config.privacy
    placement = privacy.placement if privacy.placement in _INSIDE else "private"
    scheme = config.sum.scheme if placement == "local" else hidden
    settings = {
        **_common(config, rounds),
        "sum.scheme": scheme,
        "server.weighting": "uniform",
        "privacy.placement": placement,
        "privacy.correlation": "none",
        "privacy.clip_norm": clip_norm,
        "privacy.epsilon": None,
        "privacy.noise": "secure",
    }

    def parts(multiplier: float) -> Assembly:
        chosen = config.with_overrides({**settings, "privacy.noise_multiplier": multiplier})
        return Experiment(chosen, data=data).parts

    def spent(assembly: Assembly) -> float:
        return assembly.accountant(SERVER).spent(assembly.planned(rounds), quick=True)

    low, high = 0.0, 1.0
    found = parts(high)
    while spent(found) > epsilon:
        low, high = high, 2 * high
        if high > 1e6:
            raise ConfigError(f"no noise reaches epsilon {epsilon:g} against the server: raise --epsilon")
        found = parts(high)
    for _ in range(_STEPS):
        if high <= low * 1.001:
            break
        middle = 0.5 * (low + high) if low == 0 else math.sqrt(low * high)
        candidate = parts(middle)
        if spent(candidate) <= epsilon:
            found, high = candidate, middle
        else:
            low = middle
    return found, found.accountant(SERVER).report(found.planned(rounds), cross_checks=False)
