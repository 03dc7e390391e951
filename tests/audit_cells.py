"""The cells of docs/audit.md: one audit for each place of noise, sum, observer and adjacency, with seeds fixed here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from audits import an_audit, an_experiment

from privfl.experiment.audit.result import AuditResult
from privfl.observers import Observer

PAIRS: Final = 10_000
ALPHA: Final = 0.05
TIGHT: Final = 0.8
"""The part of the stated epsilon that the lower bound reaches at least in every cell of Gaussian shape."""

_ROUNDS: Final = 3
_STREAM_ROUNDS: Final = 6
"""The rounds of a cell of one pass, of which each client is in one."""

_MULTIPLIER: Final = 0.65
_SEED: Final = 2026
_WHO: Final[tuple[tuple[str, str, tuple[Observer, ...]], ...]] = (
    ("central", "plain", ("outsider", "participant")),
    ("central", "masked", ("outsider",)),
    ("central", "ckks", ("outsider", "server")),
    ("distributed", "plain", ("outsider", "participant")),
    ("distributed", "masked", ("outsider", "participant", "server")),
    ("distributed", "ckks", ("outsider", "participant", "server", "key_holder")),
    ("local", "plain", ("outsider", "participant", "server")),
    ("local", "masked", ("participant", "server")),
    ("local", "ckks", ("participant", "key_holder")),
)
_CLIPS: Final[dict[str, dict[str, Any]]] = {
    "flat": {},
    "layers": {"privacy.clip": "layers"},
    "entries": {"privacy.clip": "entries"},
    "flat, loss": {"privacy.loss_bound": 4.0},
    "adaptive, loss": {"privacy.loss_bound": 4.0, "privacy.clip_quantile": 0.5},
}
_CLIENTS: Final = {"central": 24, "distributed": 40, "local": 24, "mesh": 24}
_SURVIVE: Final = {"central": 0.5, "distributed": 0.95, "local": 0.04, "mesh": 0.95}


@dataclass(frozen=True)
class Cell:
    """One audited run.

    Attributes:
        number: The number of the cell, which is part of its seed.
        placement: Where the noise is.
        scheme: The sum.
        observer: Against whom.
        adjacency: What the worlds differ in.
        dropouts: Who drops out.
        clip: The variant of the clip.
        sampling: How cohorts are sampled.
        correlation: How the noise of the rounds depends on each other.
        members: The clients that add mesh noise; 0 is all.
    """

    number: int
    placement: str
    scheme: str
    observer: Observer
    adjacency: str
    dropouts: str
    clip: str
    sampling: str = "everyone"
    correlation: str = "none"
    members: int = 0

    def audit(self, alpha: float, *, pairs: int = PAIRS) -> AuditResult:
        """The audit of this cell."""
        settings: dict[str, Any] = {
            "rounds": _ROUNDS,
            "privacy.placement": self.placement,
            "privacy.adjacency": self.adjacency,
            "privacy.noise_multiplier": _MULTIPLIER * (2 if self.adjacency == "replace_one" else 1),
            "sum.scheme": self.scheme,
            "cohort.min_survivor_fraction": _SURVIVE[self.placement],
        }
        if self.sampling.startswith("Poisson"):
            settings |= {"cohort.sampling": "poisson", "cohort.probability": 0.5}
        if self.sampling == "one pass":
            settings |= {"cohort.sampling": "one-pass", "cohort.size": _CLIENTS[self.placement] // _STREAM_ROUNDS}
            settings |= {"rounds": _STREAM_ROUNDS, "privacy.correlation": self.correlation}
        if self.members:
            settings["privacy.members"] = self.members
        experiment = an_experiment(_CLIENTS[self.placement], **(settings | _CLIPS[self.clip]))
        return an_audit(
            experiment,
            self.observer,
            trials=pairs,
            alpha=alpha,
            dropouts=self.dropouts,
            one_run=True,
            seed=_SEED + self.number,
        )


def cells() -> list[Cell]:
    """All cells. Dropouts and clips take turns, so every pair of levels occurs."""
    return [Cell(number, *cell) for number, cell in enumerate(_cells())]


def _cells() -> Iterator[tuple[Any, ...]]:
    clips, turn = list(_CLIPS), 0
    for placement, scheme, observers in _WHO:
        for observer in observers:
            for adjacency in ("add_remove", "zero_out", "replace_one"):
                alone = placement == "local" and observer != "server" and scheme == "plain"  # only then is it tight
                dropouts = "fewest" if alone or turn % 3 else "none"
                yield placement, scheme, observer, adjacency, dropouts, clips[turn % len(clips)]
                turn += 1
    for placement, scheme in (("central", "plain"), ("central", "masked"), ("distributed", "plain")):
        yield placement, scheme, "outsider", "add_remove", "fewest", "flat", "Poisson, 1/2"
    for scheme, observer, adjacency, clip in (
        ("plain", "outsider", "add_remove", "flat"),
        ("plain", "participant", "zero_out", "layers"),
        ("masked", "outsider", "replace_one", "entries"),
        ("masked", "participant", "add_remove", "flat, loss"),
    ):
        yield "central", scheme, observer, adjacency, "none", clip, "one pass", "toeplitz"
    yield "central", "masked", "outsider", "add_remove", "none", "flat", "one pass", "none"
    for members in (0, 8):
        for observer, adjacency, clip in (
            ("outsider", "add_remove", "flat"),
            ("server", "zero_out", "adaptive, loss"),
            ("participant", "replace_one", "layers"),
        ):
            yield "mesh", "masked", observer, adjacency, "fewest", clip, "everyone", "none", members
