"""A client's policy: the demands that a plan must meet before the client trains."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from privfl.dp.release import Placement
from privfl.dp.unit import Level
from privfl.errors import PlanRejected
from privfl.fl.examples import ExampleRule
from privfl.fl.plan import RoundPlan
from privfl.sums import SecureSum, SumPolicy, SumTask
from privfl.sums.noise import RosterNoise


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """The demands of a client; `check` compares a plan with them.

    A policy with any demand on noise (`placements`, `min_noise_stddev`, `min_colluders`, `min_spare`,
    `min_members_to_open` or `level`) refuses noise from the plan's public seed, which protects nobody.

    Attributes:
        sum: The demands on the sum: cohort, survivors, share threshold.
        placements: The placements of noise that are accepted; None accepts any, and rounds without noise.
        min_noise_stddev: The minimum of the declared standard deviation of the noise, in the model's unit.
        max_clip_norm: The largest clip norm that is accepted.
        min_colluders: The fewest colluding clients that distributed noise must tolerate.
        min_spare: The fewest members that mesh noise must tolerate in one coalition, the observer's own place included.
        min_members_to_open: The fewest members of mesh noise in a sum that opens.
        level: The unit that the noise must hide, "client" or "example"; None accepts both.
        max_sampling_probability: The largest probability with which this client samples its own examples.
    """

    sum: SumPolicy = field(default_factory=SumPolicy)
    placements: frozenset[Placement] | None = None
    min_noise_stddev: float = 0.0
    max_clip_norm: float = math.inf
    min_colluders: int = 0
    min_spare: int = 0
    min_members_to_open: int = 0
    level: Level | None = None
    max_sampling_probability: float = 1.0

    def check(self, plan: RoundPlan, scheme: SecureSum) -> SumTask:
        """Judge the plan by the mechanism that will run.

        Args:
            plan: The plan as this client received it.
            scheme: The client's own sum; it must be the one that the plan names.

        Returns:
            The task of the round's sum.

        Raises:
            PlanRejected: If the plan does not meet a demand.
            ConfigError: If the plan names another sum.
        """
        plan.check_scheme(scheme)
        mechanism = plan.mechanism
        if self.placements is not None and mechanism.placement not in self.placements:
            allowed = ", ".join(sorted(self.placements))
            raise PlanRejected(f"the noise is {mechanism.placement!r}, and this client accepts: {allowed}")
        hides = not plan.evaluates or mechanism.claims  # metrics without noise are of no unit
        if hides and self.level not in (None, plan.level):
            raise PlanRejected(f"the plan hides one {plan.level}, and this client insists on one {self.level}")
        if (rule := plan.encoding.examples) is not None:
            check_probability(rule, self.max_sampling_probability)
        if (demand := self._noise_demand) and mechanism.claims and mechanism.source != "secure":
            raise PlanRejected(
                f"the noise is sampled from the plan's public seed, and this client insists on noise by its {demand}: "
                "set privacy.noise = 'secure'"
            )
        stddev = plan.noise_stddev(scheme)
        if stddev < self.min_noise_stddev:
            raise PlanRejected(f"noise stddev is {stddev:g}, and this client insists on {self.min_noise_stddev:g}")
        if plan.encoding.clip.clip_norm > self.max_clip_norm:
            raise PlanRejected(
                f"clip norm is {plan.encoding.clip.clip_norm:g}, and this client allows {self.max_clip_norm:g}"
            )
        if mechanism.placement == "distributed" and mechanism.colluders < self.min_colluders:
            raise PlanRejected(
                f"the noise tolerates {mechanism.colluders} colluders, and this client insists on {self.min_colluders}"
            )
        task = plan.task(scheme)
        if task.noise is not None:
            self._check_members(task.noise)
        self.sum.check(task)
        return task

    @property
    def _noise_demand(self) -> str | None:
        """The name of a demand on noise that this policy makes; None if it makes none."""
        if self.placements is not None:
            return "placements"
        if self.level is not None:
            return "level"
        minima = ("min_noise_stddev", "min_colluders", "min_spare", "min_members_to_open")
        return next((name for name in minima if getattr(self, name) > 0), None)

    def _check_members(self, noise: RosterNoise) -> None:
        """Compare the numbers of mesh noise with the demands."""
        demands = [
            ("spare", noise.spare, self.min_spare),
            ("min_members_to_open", noise.min_members_to_open, self.min_members_to_open),
        ]
        for name, stated, wanted in demands:
            if stated < wanted:
                raise PlanRejected(
                    f"{name} of the mesh noise is {stated}, and this client insists on at least {wanted}"
                )


def check_probability(rule: ExampleRule, max_probability: float) -> None:
    """Raise `PlanRejected` for a sum over examples in which a site samples its examples with too large a probability.

    Args:
        rule: The terms of the sum.
        max_probability: The largest probability that a client allows.
    """
    if rule.sampling.probability > max_probability:
        raise PlanRejected(
            f"examples are sampled with probability {rule.sampling.probability:g}, and this client allows "
            f"{max_probability:g}"
        )
