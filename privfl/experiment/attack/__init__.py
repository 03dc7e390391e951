"""Attacks on a run: what an honest-but-curious server gets from plain updates, from masked sums, and under noise."""

from privfl.experiment.attack.measure import attack
from privfl.experiment.attack.plan import AttackKind, AttackPlan
from privfl.experiment.attack.result import InversionResult, MembershipResult

__all__ = ["AttackKind", "AttackPlan", "InversionResult", "MembershipResult", "attack"]
