"""The one door to the attacks."""

from __future__ import annotations

from privfl.checks import check_choice
from privfl.experiment.attack.membership import guess
from privfl.experiment.attack.plan import KINDS, AttackKind, AttackPlan
from privfl.experiment.attack.reconstruction import invert
from privfl.experiment.attack.result import InversionResult, MembershipResult
from privfl.experiment.audit.measure import ProgressCallback
from privfl.experiment.experiment import Experiment


def attack(
    experiment: Experiment,
    kind: AttackKind,
    *,
    plan: AttackPlan | None = None,
    progress: ProgressCallback | None = None,
) -> InversionResult | MembershipResult:
    """Attack a run as an honest-but-curious server: in a plain sum, in a masked sum, and with noise.

    Args:
        experiment: The run that is attacked; it is not run, and nothing is charged to its ledger.
        kind: "inversion" reconstructs examples of one client (`InversionResult`); "membership" guesses whether a client
            holds an example (`MembershipResult`).
        plan: The size of the attack.
        progress: Called as the trials go on.

    Returns:
        What the server got in each case, next to what the stated epsilon allows.

    Raises:
        ConfigError: If the settings allow no such attack.
        PrivacyError: If the rounds over arrays differ from those of the parties.
    """
    check_choice("kind", kind, KINDS)
    plan = AttackPlan() if plan is None else plan
    return guess(experiment, plan, progress) if kind == "membership" else invert(experiment, plan, progress)
