"""Write docs/attack.md: both attacks on handwritten digits, with settings and seeds that are fixed here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from privfl.dp import format_epsilon
from privfl.experiment import AttackPlan, Experiment, InversionResult, MembershipResult, attack, load_config
from privfl.experiment.attack.rates import Estimate
from privfl.report.attack import plot_attack
from tools.common import ROOT
from tools.pages import replaced, table

PAGE: Final = ROOT / "docs" / "attack.md"
CONFIG: Final = ROOT / "examples" / "digits.toml"
TRIALS: Final = 2000


def main() -> None:
    """Run the attacks, and write tables and pictures."""
    text = PAGE.read_text()
    images = ROOT / "docs" / "images"
    for name, examples in (("inversion-1", 1), ("inversion-8", 8)):
        result = attack(_experiment(), "inversion", plan=AttackPlan(examples=examples, images=100 // examples))
        assert isinstance(result, InversionResult)  # noqa: S101 - the kind that was asked for
        text = replaced(
            text, name, table(("case", "epsilon", "median r", "best r", "PSNR", "recovered"), _lines(result)), PAGE
        )
    _draw(attack(_experiment(), "inversion"), images / "inversion.png")
    for name, examples in (("membership-1", 1), ("membership-mean", None)):
        result = attack(_experiment(), "membership", plan=AttackPlan(examples=examples, trials=TRIALS))
        assert isinstance(result, MembershipResult)  # noqa: S101 - the kind that was asked for
        if result.refuted:
            raise SystemExit(result.sentence)
        columns = ("case", "AUC", "at most", "TPR at 1 %", "at most", "advantage", "at most")
        text = replaced(text, name, table(columns, _rates(result)), PAGE)
        if examples == 1:
            _draw(result, images / "membership.png")
    PAGE.write_text(text)


def _experiment() -> Experiment:
    return Experiment(load_config(CONFIG))


def _draw(result: InversionResult | MembershipResult, path: Path) -> None:
    print(plot_attack(result, path), f"{result.seconds:.0f} s", flush=True)


def _lines(result: InversionResult) -> Sequence[Sequence[Any]]:
    return [
        (
            case.name,
            "-" if case.report is None else format_epsilon(case.report.epsilon, 3),
            f"{np.median(case.correlations):.2f}",
            f"{case.correlations.max():.2f}",
            f"{np.median(case.psnrs):.0f} dB",
            f"{case.recovered} of {len(result.truths)}",
        )
        for case in result.cases
    ]


def _rates(result: MembershipResult) -> Sequence[Sequence[Any]]:
    return [
        (
            case.name,
            *_figure(case.rates.auc),
            *_figure(case.rates.tpr),
            *_figure(case.rates.advantage),
        )
        for case in result.cases
    ]


def _figure(figure: Estimate) -> tuple[str, str]:
    return f"{figure.value:.3f} ({figure.low:.2f} to {figure.high:.2f})", f"{figure.limit:.3f}"


if __name__ == "__main__":
    main()
