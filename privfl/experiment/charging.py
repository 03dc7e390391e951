"""The payment of a run and the source of its cohorts, from its parts and its folder, with or without data here."""

from __future__ import annotations

from collections.abc import Callable

from privfl.dp import Ledger
from privfl.experiment.assemble import Assembly
from privfl.experiment.folder import RunFolder
from privfl.fl.payment import Payment
from privfl.fl.sampling import Uniforms, secret_uniforms, seeded_uniforms


def payment_of(parts: Assembly, files: RunFolder) -> Payment | None:
    """The payment of a run's rounds in the ledger of its folder; None without noise.

    Args:
        parts: The parts of the run.
        files: Its folder.
    """
    if not parts.private:
        return None
    return Payment(Ledger(parts.unit, files.ledger_path), parts.accountant(), parts.budget())


def uniforms_of(parts: Assembly, files: RunFolder) -> Callable[[int, int], Uniforms]:
    """Return the source of the uniform numbers that sample a cohort, by seed and round.

    A claim that rests on sampling takes its cohorts from a secret of the run, and every other run from the seed.

    Args:
        parts: The parts of the run.
        files: Its folder, which keeps the secret.
    """
    if not parts.private or parts.config.privacy.noise == "simulation":
        return seeded_uniforms
    return lambda seed, round: secret_uniforms(files.key(), round)
