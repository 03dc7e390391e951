"""The questions of `privfl epsilon`: each is a history at one delta, whose answers are tidy rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from privfl.cli.planned import ObserverName, PlannedRun, choose_delta
from privfl.dp import EpsilonReport, History, Ledger, Plan, by_observer, opinions
from privfl.dp import epsilon as judged
from privfl.dp.accounting.report import json_figure
from privfl.errors import ConfigError, MissingExtra
from privfl.observers import Observer


@dataclass(frozen=True, slots=True)
class Case:
    """One question: releases at one delta.

    Attributes:
        keys: The options in which it differs from the other questions, by name.
        history: The releases.
        delta: Probability with which the promise may fail.
        why: A word on the delta.
        ask: The report against one observer.
        plan: The plan, where the run is only planned.
        group: Units that change together.
    """

    keys: dict[str, Any]
    history: History
    delta: float
    why: str
    ask: Callable[[Observer], EpsilonReport]
    plan: Plan | None = None
    group: int = 1

    @property
    def label(self) -> str:
        """The case in a legend."""
        return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.keys.items()) or "this run"


def cases_of_ledgers(run: PlannedRun, paths: Sequence[Path], *, each: bool, allow_large: bool) -> list[Case]:
    """The cases of ledgers: one for each, or one for all together.

    Args:
        run: The options of a planned run, of which only delta and group may be given.
        paths: The ledgers.
        each: Judge each ledger by itself.
        allow_large: Take a delta of 1/units or more.

    Raises:
        ConfigError: Another option of a planned run, or a ledger twice.
    """
    if replace(run, delta=None, group=1) != PlannedRun():
        raise ConfigError("a ledger states by itself what was done: give --ledger with --observer and --delta only")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("one ledger is given twice: give each --ledger once")
    delta, why = choose_delta(run.delta, None, allow_large=allow_large)
    parts = [[path] for path in paths] if each else [list(paths)]
    cases = []
    for part in parts:
        history = History.of([Ledger.read(path) for path in part])

        @cache  # a report keeps its curve
        def ask(observer: Observer, history: History = history) -> EpsilonReport:
            return judged(history, delta, observer=observer, assume_secure_noise=True, group=run.group)

        keys = {"ledger": str(part[0])} if each else {}
        cases.append(Case(keys, history, delta, why, ask, group=run.group))
    return cases


def cases_of_configs(run: PlannedRun, paths: Sequence[Path]) -> list[Case]:
    """The cases of configurations: what each would release over all its rounds, at its own delta by default.

    Args:
        run: The options of a planned run, of which only delta and group may be given.
        paths: The TOML files.

    Raises:
        ConfigError: Another option of a planned run, a file twice, or a configuration without noise.
    """
    from privfl.experiment import Experiment

    if replace(run, delta=None, group=1) != PlannedRun():
        raise ConfigError("a configuration states by itself what is planned: give --config with --observer and --delta")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("one configuration is given twice: give each --config once")
    cases = []
    for path in paths:
        parts = Experiment.from_file(path).parts
        history = parts.planned(parts.config.rounds, parts.max_attempts)
        delta = parts.delta if run.delta is None else run.delta

        @cache
        def ask(observer: Observer, history: History = history, delta: float = delta) -> EpsilonReport:
            return judged(history, delta, observer=observer, assume_secure_noise=True, group=run.group)

        why = "" if run.delta is not None else f" (of {path.name})"
        cases.append(Case({"config": path.stem} if len(paths) > 1 else {}, history, delta, why, ask, group=run.group))
    return cases


def case_of_plan(run: PlannedRun, keys: dict[str, Any], *, allow_large: bool) -> Case:
    """The case of a planned run.

    Args:
        run: The options.
        keys: Options that replace some of them.
        allow_large: Take a delta of 1/units or more.
    """
    asked = replace(run, **keys)
    plan = asked.plan()
    delta, why = asked.chosen_delta(allow_large=allow_large)

    @cache
    def ask(observer: Observer) -> EpsilonReport:
        return asked.plan(observer).report(delta, group=asked.group)

    return Case(keys, plan.history(), delta, why, ask, plan, asked.group)


def tidy_rows(case: Case, observer: ObserverName | None) -> list[dict[str, Any]]:
    """The case in tidy rows: one for each observer.

    Args:
        case: The case.
        observer: The only observer that is asked about; None: all of them.
    """
    if observer is None:
        found: list[dict[str, Any]] = _figures(case)
    else:
        report = case.ask(observer.value)
        reason = report.caveats[0] if math.isinf(report.epsilon) and report.caveats else report.sampling
        found = [{"observer": observer.value, "epsilon": report.epsilon, "reason": reason}]
    return [case.keys | {"delta": case.delta} | row for row in found]


def _figures(case: Case) -> list[dict[str, Any]]:
    figures = by_observer(case.history, case.delta, assume_secure_noise=True, group=case.group)
    return [
        {
            "observer": figure.observer,
            "epsilon": None if figure.report is None else figure.report.epsilon,
            "reason": figure.reason,
        }
        for figure in figures
    ]


def observer_rows(case: Case) -> list[dict[str, Any]]:
    """The rows of all observers, with the reason where a plan without a sum states nothing about an observer."""
    rows = [jsonable(row) for row in _figures(case)]
    if case.plan is not None and case.plan.views is None:
        from privfl.experiment.schemes import SCHEMES

        reason = f"what they see depends on the sum: give --sum, one of {', '.join(SCHEMES)}"
        rows.append({"observer": "all others", "epsilon": None, "reason": reason})
    return rows


def accountant_rows(case: Case, observer: Observer) -> list[dict[str, Any]]:
    """The figures of all accountants for one case, those of Opacus included where it is installed.

    Args:
        case: The planned run, or the ledgers, that epsilon is asked about.
        observer: The observer against which epsilon is stated.

    Raises:
        ConfigError: The case asks about a group.
    """
    if case.group > 1:
        raise ConfigError("--accountants judges one unit: leave --group out")
    others, missing = {}, ""
    try:
        from privfl.adapters.opacus import prv_bounds

        others["PRV (Opacus)"] = prv_bounds
    except MissingExtra as error:
        missing = str(error)
    history = case.history
    if observer != "outsider" and case.plan is not None:
        history = replace(case.plan, observer=observer).history()
    found = opinions(history, case.delta, observer=observer, assume_secure_noise=True, others=others)
    rows = [opinion.as_dict() for opinion in found]
    if missing:
        rows.append({"accountant": "PRV (Opacus)", "bound": "upper bound", "epsilon": None, "note": missing})
    return rows


def facts_of(report: EpsilonReport, prior: float) -> dict[str, Any]:
    """The single numbers of a curve: advantage, Bayes risk and posterior odds.

    Args:
        report: The report.
        prior: The probability of presence before the release.
    """
    low, high = report.posterior_odds(prior)
    return {
        "advantage": report.advantage,
        "prior": prior,
        "bayes_risk": report.bayes_risk(prior),
        "posterior_odds": [low, high],
    }


def curve_rows(cases: Sequence[Case], observer: Observer, *, profile: bool, tradeoff: bool) -> list[dict[str, Any]]:
    """All curves as tidy rows.

    Args:
        cases: The cases.
        observer: The observer against which epsilon is stated.
        profile: Take delta over epsilon.
        tradeoff: Take the false negative rate over the false positive rate.
    """
    rows = []
    for case in cases:
        report = case.ask(observer)
        if profile:
            rows += [case.keys | {"curve": "profile", "epsilon": e, "delta": d} for e, d in report.profile()]
        if tradeoff:
            rows += [
                case.keys | {"curve": "tradeoff", "false_positive_rate": a, "false_negative_rate": b}
                for a, b in report.tradeoff()
            ]
    return rows


def jsonable(row: dict[str, Any]) -> dict[str, Any]:
    """A row for JSON, which has no infinity."""
    return {name: json_value(value) for name, value in row.items()}


def json_value(value: Any) -> Any:
    """A value for JSON: infinities become text."""
    if isinstance(value, list):
        return [json_value(part) for part in value]
    return json_figure(value) if isinstance(value, float) else value
