"""Inversions of real rounds: what the server makes of one client's examples from its view of the first round."""

from __future__ import annotations

import time

import numpy as np

from privfl.codec import Vector
from privfl.errors import ConfigError
from privfl.experiment.attack.cases import Case, attack_cases
from privfl.experiment.attack.dealing import Deck, dealt_train, image_side
from privfl.experiment.attack.inversion import FirstLayer, Floats, invert_classes, invert_one, similarity
from privfl.experiment.attack.plan import AttackPlan
from privfl.experiment.attack.result import InversionResult, InvertedCase
from privfl.experiment.attack.views import mean_update, noise_in_words, server_sees, update_factor
from privfl.experiment.audit.measure import ProgressCallback
from privfl.experiment.audit.parties import Trials
from privfl.experiment.audit.subject import CANARY
from privfl.experiment.experiment import Experiment
from privfl.fl.plan import RoundPlan
from privfl.ring import Ints

_STREAM = 8


def invert(experiment: Experiment, plan: AttackPlan, progress: ProgressCallback | None = None) -> InversionResult:
    """Reconstruct examples of one client from the server's view of the first round.

    Args:
        experiment: The run that is attacked; it is not run, and nothing is charged to its ledger.
        plan: The size of the attack.
        progress: Called as the trials go on.

    Returns:
        The reconstructions of each case, next to a guess without any update.

    Raises:
        ConfigError: If the model does not start with a linear layer, or the settings allow no trial.
    """
    started = time.perf_counter()
    if image_side(experiment.federation.dataset) and experiment.config.data.standardize in ("exact", "local"):
        # Pixels as they are in the file: images of standardized pixels show nothing.
        raw = experiment.config.with_overrides({"data.standardize": "none"})
        experiment = Experiment(raw, data=experiment.parts.objects.data)
    config, federation = experiment.config, experiment.federation
    examples = 1 if plan.examples is None else plan.examples
    deck = Deck.of(federation, clients=len(federation.clients), examples=examples, seed=plan.seed)
    cases = attack_cases(config, deck, epsilons=plan.epsilons, rounds=1, seed=plan.seed)
    layer = FirstLayer.of(dealt_train(cases[0].parts, deck), federation.dataset.width)
    trials = [Trials(case.subject.seeded, train=dealt_train(case.parts, deck), optimizer=case.parts.optimizer)
              for case in cases]  # fmt: skip
    if plan.images > len(deck.pool):
        raise ConfigError(f"there are {len(deck.pool)} examples to reconstruct, not {plan.images}: lower --images")
    rng = np.random.default_rng([plan.seed, 0, _STREAM])
    places = rng.choice(len(deck.pool), plan.images, replace=False)
    targets = deck.pool[places]
    found: list[list[Floats]] = [[] for _ in cases]
    attackers = [_Attacker(layer, deck, case) for case in cases]
    for at, (place, target) in enumerate(zip(places, targets, strict=True)):
        rest = deck.sample(examples - 1, rng, without=int(place))
        deck.deal(CANARY, np.concatenate([[target], rest]), rng, candidate=int(place))
        seed = int(rng.integers(0, 2**63 - 1))
        for n, (case, trial) in enumerate(zip(cases, trials, strict=True)):
            found[n].append(attackers[n](_view(case, trial, seed), int(target)))
            if progress is not None:
                progress(at * len(cases) + n + 1, plan.images * len(cases))
    configured_clip = config.privacy.clip_norm is not None
    return _result(
        deck, cases, found, targets, plan=plan, seconds=time.perf_counter() - started, configured_clip=configured_clip
    )


def _view(case: Case, trial: Trials, seed: int) -> tuple[Vector, int]:
    """The view of the server in a real round: the mean update of the clients in its view, and their number."""
    seen: list[tuple[RoundPlan, Ints]] = []

    def look(plan: RoundPlan, vector: Ints) -> None:
        seen.append((plan, vector))

    trial.run(seed, {CANARY: 1}, initial=case.parts.method.initial, look=look)
    plan, vector = seen[0]
    clients = 1 if case.subject.view == "vectors" else len(plan.cohort)
    return mean_update(plan, vector, clients), clients


class _Attacker:
    """The server, with examples of its own, and what it does with a view of the first round."""

    def __init__(self, layer: FirstLayer, deck: Deck, case: Case) -> None:
        self._layer, self._deck, self._case = layer, deck, case
        dataset = deck.data.dataset
        own = dataset.features[deck.reference].astype(np.float64)
        self._mean, self._low, self._high = own.mean(axis=0), float(own.min()), float(own.max())
        self._factor = update_factor(case.parts.config.client, deck.examples)
        weights, _ = layer.split(case.parts.method.initial)
        self._known = layer.softmax and not weights.any()  # every residual of the first round is public

    def __call__(self, view: tuple[Vector, int], target: int) -> Floats:
        update, clients = view
        weights, bias = self._layer.split(update)
        count = clients * self._deck.examples
        if count == 1 or not self._known:
            image = invert_one(weights, bias)
        else:
            label = int(self._deck.data.dataset.targets[target])
            _, means = invert_classes(weights, bias, count, mean=self._mean, scale=self._factor, present=label)
            image = means[label]
        return np.clip(image, self._low, self._high)


def _guess(deck: Deck, target: int) -> Floats:
    """The guess without any update: the mean of the attacker's own examples with the target's label."""
    dataset = deck.data.dataset
    own = dataset.features[deck.reference].astype(np.float64)
    if dataset.task in ("binary", "multiclass"):
        alike = dataset.targets[deck.reference] == dataset.targets[target]
        own = own[alike] if alike.any() else own
    mean: Floats = own.mean(axis=0)
    return mean


def _result(
    deck: Deck,
    cases: list[Case],
    reconstructions: list[list[Floats]],
    targets: np.ndarray,
    *,
    plan: AttackPlan,
    seconds: float,
    configured_clip: bool,
) -> InversionResult:
    dataset = deck.data.dataset
    truths = dataset.features[targets].astype(np.float64)
    low, high = float(dataset.features.min()), float(dataset.features.max())
    rows = [
        (case.name, server_sees(case), case.report, images) for case, images in zip(cases, reconstructions, strict=True)
    ]
    rows.append(("no update", "the label only", None, [_guess(deck, int(target)) for target in targets]))
    made = []
    for name, sees, report, images in rows:
        scores = np.array([similarity(image, truth, high - low) for image, truth in zip(images, truths, strict=True)])
        made.append(
            InvertedCase(
                name=name,
                sees=sees,
                report=report,
                images=np.array(images),
                correlations=scores[:, 0],
                psnrs=scores[:, 1],
            )
        )
    subject = cases[0].subject
    cohort = subject.cohort(0, 1, frozenset({CANARY}))
    return InversionResult(
        cases=tuple(made),
        truths=truths,
        side=image_side(dataset),
        low=low,
        high=high,
        clients=len(cohort),
        examples=deck.examples,
        assumptions=_assumptions(deck, cases, configured_clip),
        seconds=seconds,
        seed=plan.seed,
    )


def _assumptions(deck: Deck, cases: list[Case], configured_clip: bool) -> tuple[str, ...]:
    plural = "s" if deck.examples > 1 else ""
    known = (
        "The server knows the settings, the first model, the numbers of clients and examples, and the label of the "
        "example that it looks for. It also has examples of the same kind, which no client holds."
    )
    setting = (
        f"Each client holds {deck.examples} example{plural}, and all epsilon is spent in the first round: the easiest "
        "case for the attacker."
    )
    return setting, known, *noise_in_words(cases, configured_clip)
