"""Membership: does the server notice whether one client holds one example that the server knows?

Each trial deals other examples to the clients. In half of the trials the target holds the candidate, in the other half
another example in its place. The server knows the candidate, and scores its view by a likelihood ratio.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

import numpy as np
import numpy.typing as npt

from privfl.codec import Vector
from privfl.dp.accounting.scores import Scores, StatedCurve, lies_above
from privfl.experiment.attack.cases import Case, attack_cases
from privfl.experiment.attack.dealing import Deck, dealt_train
from privfl.experiment.attack.inversion import Floats
from privfl.experiment.attack.plan import AttackPlan
from privfl.experiment.attack.rates import Rates
from privfl.experiment.attack.ratio import RatioTest, SingleUpdates, single_updates
from privfl.experiment.attack.result import MembershipCase, MembershipResult
from privfl.experiment.attack.rounds import Hands, Sight, array_rounds, check_rounds
from privfl.experiment.attack.views import mean_update, noise_in_words, server_sees
from privfl.experiment.audit.measure import ProgressCallback
from privfl.experiment.audit.noise import BulkNoise
from privfl.experiment.experiment import Experiment
from privfl.fl.client import Train
from privfl.fl.optimizers import Moments, stepped

_NUMBERS = 1 << 22
_ALPHA = 0.05
_STREAM = 11


def guess(experiment: Experiment, plan: AttackPlan, progress: ProgressCallback | None = None) -> MembershipResult:
    """Guess in many trials whether the target holds the candidate.

    Args:
        experiment: The run that is attacked; it is not run, and nothing is charged to its ledger.
        plan: The size of the attack.
        progress: Called as the trials go on.

    Returns:
        The rates of the guesses in each case, next to the most that the stated epsilon allows.

    Raises:
        ConfigError: If the settings allow no such attack.
        PrivacyError: If the rounds over arrays differ from those of the parties.
    """
    started = time.perf_counter()
    federation, config = experiment.federation, experiment.config
    deck = Deck.of(federation, clients=len(federation.clients), examples=plan.examples, seed=plan.seed)
    cases = attack_cases(config, deck, epsilons=plan.epsilons, rounds=plan.rounds, seed=plan.seed)
    hands = _hands(deck, plan)
    attackers = [_Attacker(case, deck, plan.seed, laws) for laws in [_Laws(deck, cases[0])] for case in cases]
    scores, steps = np.zeros((len(cases), 2 * plan.trials)), 2 * plan.trials
    order = np.arange(2 * plan.trials, dtype=np.intp)
    width = max(1, _NUMBERS // (cases[0].subject.encoding.total_length * plan.rounds))
    for start in range(0, steps, width):
        chunk = order[start : start + width]
        for number, (n, sight) in enumerate(_sights(cases, hands, chunk, (plan.seed, start))):
            candidate = int(deck.pool[hands.candidates[sight.trial]])
            scores[n, sight.trial] += attackers[n](sight, candidate)
            if progress is not None and n == 0 and sight.round == plan.rounds:
                progress(min(start + number // len(cases) // plan.rounds + 1, steps), steps)
    compared = sum(check_rounds(case, hands, order[: plan.check]) for case in cases) if plan.check else 0
    return MembershipResult(
        cases=tuple(_case(case, row, plan.seed) for case, row in zip(cases, scores, strict=True)),
        trials=plan.trials,
        rounds=plan.rounds,
        clients=len(cases[0].subject.cohort(0, 1, frozenset({0}))),
        examples=deck.examples,
        checked=compared,
        assumptions=_assumptions(deck, cases, plan.rounds, config.privacy.clip_norm is not None),
        seconds=time.perf_counter() - started,
        seed=plan.seed,
    )


def _hands(deck: Deck, plan: AttackPlan) -> Hands:
    """The trials: those without the candidate first, and then as many with it."""
    rng = np.random.default_rng([plan.seed, 0, _STREAM])
    rows, candidates = [], np.empty(2 * plan.trials, np.intp)
    for trial in range(2 * plan.trials):
        at = rng.choice(len(deck.pool), deck.examples + 1, replace=False)
        candidates[trial] = at[0]
        rows.append(deck.pool[at[1:] if trial < plan.trials else at[:-1]])
    return Hands(deck, rows, candidates, rng.integers(0, 2**63 - 1, 2 * plan.trials))


def _sights(
    cases: list[Case], hands: Hands, chunk: npt.NDArray[np.intp], seed: tuple[int, ...]
) -> Iterator[tuple[int, Sight]]:
    """The views of all cases in turn, so one training of a first round serves them all."""

    def views(n: int, case: Case) -> Iterator[Sight]:
        columns = np.arange(case.subject.encoding.total_length)
        return array_rounds(
            case, hands, chunk, lambda _: BulkNoise(case.subject.seeded, (*seed, n), columns, len(chunk))
        )

    for row in zip(*(views(n, case) for n, case in enumerate(cases)), strict=True):
        yield from enumerate(row)


class _Laws:
    """The laws of single updates along the path of a training on the attacker's own examples, round by round."""

    def __init__(self, deck: Deck, case: Case) -> None:
        self.train: Train = dealt_train(case.parts, deck)
        self.models: list[Vector] = []
        self.laws: list[SingleUpdates] = []
        model, moments = case.parts.method.initial, cast("Moments", {})
        for round in range(1, case.subject.rounds + 1):
            law = SingleUpdates.at(self.train, deck, model, round)
            self.models.append(model)
            self.laws.append(law)
            test = RatioTest.of(law, self.train, deck, model=model, encoding=case.subject.encoding, round=round, seed=0)
            model, moments = stepped(case.parts.optimizer, model, test.factor * law.mean, moments)


class _Attacker:
    """The server in one case: its tests, one for each round."""

    def __init__(self, case: Case, deck: Deck, seed: int, laws: _Laws) -> None:
        self._deck, self._case, self._train, self._laws = deck, case, laws.train, laws
        self._tests = [
            RatioTest.of(law, laws.train, deck, model=model, encoding=case.subject.encoding, round=round, seed=seed)
            for round, (law, model) in enumerate(zip(laws.laws, laws.models, strict=True), 1)
        ]

    def __call__(self, sight: Sight, candidate: int) -> float:
        """The score of one view; those of all rounds add up."""
        test, plan = self._tests[sight.round - 1], sight.plan
        alone = single_updates(self._train, self._deck, sight.model, np.array([candidate]), sight.round)[0]
        drift: Floats | float = 0.0
        if sight.round > 1:
            drift = test.drift(self._train, self._deck, sight.model, sight.round)
        noise = 0.0
        if plan.mechanism.claims:
            noise = plan.noise(self._case.subject.scheme).noise_stddev / plan.encoding.codec.scale / sight.clients
        seen: Floats = mean_update(plan, sight.vector, sight.clients)
        return test.score(seen, alone, clients=sight.clients, noise=noise, drift=drift)


def _case(case: Case, scores: Floats, seed: int) -> MembershipCase:
    without, present = np.split(scores, 2)
    half = len(without) // 2
    training = Scores(without=without[:half], present=present[:half])
    test = Scores(without=without[half:], present=present[half:])
    curve = None if case.report is None else StatedCurve.of(case.spent)
    return MembershipCase(
        name=case.name,
        sees=server_sees(case),
        report=case.report,
        rates=Rates.of(training, test, curve, seed),
        above_curve=curve is not None and lies_above(curve, training, test, alpha=_ALPHA),
        points=tuple(Scores(without=without, present=present).curve()),
        curve=() if curve is None else tuple(curve.points()),
    )


def _assumptions(deck: Deck, cases: list[Case], rounds: int, configured_clip: bool) -> tuple[str, ...]:
    plural, of_each = "s" if rounds > 1 else "", "s" if deck.examples > 1 else ""
    setting = (
        f"In each trial every client holds {deck.examples} example{of_each}, dealt at random; the target holds the "
        f"candidate, or another example in its place. The server sees {rounds} round{plural}, in which all epsilon is "
        "spent."
    )
    known = (
        "The server knows the settings, every global model, the cohort and the candidate. It also has examples of the "
        "same kind, which no client holds; it does not know the examples of other clients."
    )
    bound = (
        "An exchange of one example changes the data of one client, so the bounds are those of an exchange of one "
        "client's data: two steps of add_remove or zero_out."
    )
    return setting, known, *noise_in_words(cases, configured_clip), bound
