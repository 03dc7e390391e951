"""One figure for every observer, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from privfl.dp.accounting.accountant import Accountant, Ledgers
from privfl.dp.accounting.events import drawn_at_sites
from privfl.dp.accounting.history import History
from privfl.dp.accounting.report import EpsilonReport, json_figure
from privfl.errors import UnsupportedRelease
from privfl.observers import OBSERVERS, Observer

_KNOWS: Final[dict[Observer, str]] = {
    "participant": "knows who took part and its own noise",
    "server": "knows who took part and sees the traffic",
    "key_holder": "knows who took part and opens the sum",
}


@dataclass(frozen=True, slots=True)
class ObserverFigure:
    """The epsilon against one observer.

    Attributes:
        observer: The observer.
        report: The full statement; None where no figure can be given.
        reason: What the figure rests on, or why there is none.
    """

    observer: Observer
    report: EpsilonReport | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """The figure for `--json`."""
        figure = None if self.report is None else json_figure(self.report.epsilon)
        return {"observer": self.observer, "epsilon": figure, "reason": self.reason}


def by_observer(
    ledgers: Ledgers, delta: float, *, assume_secure_noise: bool = False, group: int = 1
) -> list[ObserverFigure]:
    """The epsilon against each observer of the sums behind these releases.

    Args:
        ledgers: One ledger, or several of one unit that are judged together.
        delta: Probability in (0, 1) with which the promise may fail.
        assume_secure_noise: Judge seeded or floating-point noise as if it were secure.
        group: How many units change together.

    Raises:
        ConfigError: `delta` or `group` is out of range.
        UnsupportedRelease: The ledgers are of different units, or hold insecure noise that is not assumed secure.
    """
    history = History.of(ledgers)
    releases = history.releases
    seen = [name for name in OBSERVERS if all(name in release.views for release in releases)]
    return [_figure(history, delta, name, assume_secure_noise, group) for name in seen]


def _figure(history: History, delta: float, observer: Observer, assume: bool, group: int) -> ObserverFigure:
    accountant = Accountant(delta, observer=observer, assume_secure_noise=assume, group=group)
    try:
        report = accountant.report(history, cross_checks=False)
    except UnsupportedRelease as error:
        if observer == "outsider":
            raise
        return ObserverFigure(observer, None, str(error))
    if math.isinf(report.epsilon) and report.caveats:
        return ObserverFigure(observer, report, report.caveats[0])
    if observer == "outsider":
        return ObserverFigure(observer, report, f"sees the released models; {report.sampling}")
    if history.unit.level == "example" and drawn_at_sites(history.releases):
        return ObserverFigure(observer, report, f"{_KNOWS[observer]}, and not which examples; {report.sampling}")
    return ObserverFigure(observer, report, f"{_KNOWS[observer]}: no amplification by sampling")
