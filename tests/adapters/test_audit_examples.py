"""The audit of example-level DP-SGD: the stated epsilon stands, and noise that is too small does not."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("opacus")

from privfl.adapters.opacus import OpacusTrain  # noqa: E402
from privfl.errors import ConfigError  # noqa: E402
from privfl.experiment.audit import AuditPlan  # noqa: E402
from privfl.experiment.audit.examples import audit_examples  # noqa: E402
from privfl.experiment.audit.result import AuditResult  # noqa: E402

OTHERS = (np.zeros((5, 2), np.float32), np.zeros(5, np.int64))
CANARY = (np.array([1e4, 0.0], np.float32), 1)


def audited(trials: int, *, batch_size: int = 6, factor: float = 1.0) -> AuditResult:
    """An audit of noise that is `factor` times what the ledger says."""
    module = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.zeros_(module.weight)

    def make(rows: Any) -> OpacusTrain:
        train = OpacusTrain(
            module, rows, clip_norm=1.0, noise_multiplier=1.0, batch_size=batch_size, steps=2, learning_rate=1e-6
        )
        exact = train._opacus.DPOptimizer

        def optimizer(inner: Any, *, noise_multiplier: float, **more: Any) -> Any:
            return exact(inner, noise_multiplier=factor * noise_multiplier, **more)

        loaded = train._opacus
        wrapped, inner = loaded.AbstractGradSampleModule, loaded.GradSampleModule
        train._opacus = type(loaded)(wrapped, inner, optimizer, loaded.ModuleValidator)
        return train

    return audit_examples(make, OTHERS, CANARY, delta=1e-5, plan=AuditPlan(trials=trials, seed=3))


def test_a_correct_step_stands() -> None:
    result = audited(40)
    assert not result.refuted
    assert result.stated.epsilon == pytest.approx(6.573, abs=0.01)
    assert not result.stated.secure


@pytest.mark.slow
def test_the_bound_of_a_correct_step_is_close() -> None:
    result = audited(2_000)
    assert 0.7 < result.lower.epsilon / result.stated.epsilon <= 1.0


def test_noise_that_is_too_small_is_refuted() -> None:
    assert audited(80, factor=0.25).refuted


def test_sampled_batches_get_the_bound_without_a_shape() -> None:
    result = audited(20, batch_size=3)
    assert [bound.mu for bound in result.bounds] == [None]
    assert not result.refuted


def test_no_round_is_no_audit() -> None:
    with pytest.raises(ConfigError, match="at least one round"):
        audit_examples(lambda rows: None, OTHERS, CANARY, delta=1e-5, rounds=0)  # type: ignore[arg-type, return-value]
