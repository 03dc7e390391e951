"""Example-level privacy with odd data, layers, losses and executors: the promise holds, or a typed error is raised."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from each_client import each
from torch import nn
from torch.nn import functional

from privfl.adapters.ledgers import ClientLedgers
from privfl.adapters.opacus import UNIT, OpacusTrain
from privfl.adapters.torch import cross_entropy
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.errors import ClientFailed, ConfigError, StateError
from privfl.fl.client import client_rng

RNG = np.random.default_rng(6)
X = RNG.normal(size=(120, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def rows(client: int) -> Any:
    return X, Y


def linear(outputs: int = 2) -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(5, outputs)


def trainer(module: nn.Module | None = None, given: Any = rows, **settings: Any) -> OpacusTrain:
    usual = {"clip_norm": 1.0, "noise_multiplier": 1.0, "batch_size": 30, "steps": 4}
    return OpacusTrain(module or linear(), given, **{**usual, **settings})


def run(train: OpacusTrain, client: int = 0, round: int = 0) -> Any:
    return train(train.initial(), client, round, client_rng(1, round, client)).delta


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("deep", [False, True])
def test_an_example_without_a_finite_gradient_counts_as_zero(value: float, deep: bool) -> None:
    def module() -> nn.Module:
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)) if deep else linear()

    odd = np.vstack([np.full((1, 5), value, np.float32), X])
    zero = np.vstack([np.zeros((1, 5), np.float32), X])
    labels = np.append(0, Y)
    settings = {"noise_multiplier": 1e-6, "batch_size": 121, "steps": 1, "learning_rate": 1.0}
    found = run(trainer(module(), lambda client: (odd, labels), **settings))
    assert np.isfinite(found).all()
    if np.isfinite(value):
        return  # it may be clipped in place of zeroed: both are within the bound
    without = run(trainer(module(), lambda client: (zero, labels), **settings))
    assert np.linalg.norm(found - without) * 121 <= 1.0 + 1e-3  # one example's bound


def test_a_nan_target_and_a_loss_of_ones_own_leave_the_update_finite() -> None:
    values = X[:, 1].copy()
    values[7] = np.nan

    def half_square(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (0.5 * (output[:, 0] - targets) ** 2).mean()

    assert np.isfinite(run(trainer(linear(1), lambda client: (X, values), loss=half_square, batch_size=120))).all()


class Noisy(nn.Module):
    """Adds noise of its own from torch's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x + torch.randn_like(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["dropout", "own noise"])
def test_a_modules_own_randomness_follows_the_key(kind: str) -> None:
    def module() -> nn.Module:
        torch.manual_seed(3)
        return Noisy() if kind == "own noise" else nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 2))

    built = module()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = run(trainer(built))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    train = trainer(module())
    run(train, client=5)
    assert run(train).tobytes() == first.tobytes()
    assert run(train, client=2).tobytes() != first.tobytes()


def test_threads_do_not_disturb_each_other_and_every_step_is_charged() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 2))
    expected = [run(trainer(module), client=client).tobytes() for client in range(4)]
    shared, found = trainer(module), {}

    def work(client: int) -> None:
        found[client] = run(shared, client=client).tobytes()

    threads = [threading.Thread(target=work, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[client] for client in range(4)] == expected
    assert [len(shared.ledger(client).releases) for client in range(4)] == [1] * 4


def work_of(train: OpacusTrain) -> Any:
    def work(model: Any, client: int, order: bytes) -> Any:
        delta = train(model, client, int(order), client_rng(1, int(order), client)).delta
        return (1e6 * delta).astype(np.int64)

    return work


@pytest.mark.parametrize("folder", [None, "ledgers"])
def test_ledgers_are_the_same_whatever_executes_the_clients(tmp_path: Path, folder: str | None) -> None:
    found = []
    for name, executor in (("loop", LoopExecutor()), ("pool", ProcessExecutor(2))):
        train = trainer(ledgers=None if folder is None else tmp_path / f"{name}-{folder}")
        work = work_of(train)
        for number in range(3):
            for _ in each(executor, work, train.initial(), range(4), order=b"%d" % number):
                train.ledger(0)  # read while others write
        executor.close()
        found.append([train.report(client, 1e-5).epsilon for client in range(4)])
        assert [[r.round for r in train.ledger(client).releases] for client in range(4)] == [[0, 1, 2]] * 4
        assert train.report(9, 1e-5).epsilon == 0.0  # which has never taken part
    assert found[0] == found[1]
    assert min(found[0]) > 0.5


def test_two_processes_may_train_one_client_and_both_are_charged(tmp_path: Path) -> None:
    train = trainer(ledgers=tmp_path, steps=1)
    with ProcessExecutor(2) as executor:
        done = list(each(executor, work_of(train), train.initial(), [3] * 12, order=b"0"))
    assert len(done) == 12
    assert len(train.ledger(3).releases) == 12
    assert not train.ledger(3).unsettled
    assert sorted(release.attempt for release in train.ledger(3).releases) == list(range(12))


def test_a_training_that_fails_stays_charged_wherever_it_ran() -> None:
    def fails(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("own")

    for executor in (LoopExecutor(), ProcessExecutor(1)):
        train = trainer(loss=fails)
        with pytest.raises(ClientFailed, match="client 2"):
            list(each(executor, work_of(train), train.initial(), [2], order=b"0"))
        executor.close()
        assert len(train.ledger(2).releases) == 1
        assert train.report(2, 1e-5).epsilon > 0


def test_a_copy_in_another_process_writes_the_same_ledgers_or_fails(tmp_path: Path) -> None:
    train = trainer(ledgers=tmp_path / "here")
    copy = pickle.loads(pickle.dumps(train))  # noqa: S301 - our own, as starting a worker does it
    assert run(copy).tobytes() == run(train).tobytes()
    assert len(train.ledger(0).releases) == 2
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(StateError, match="folder that all workers share"):
        run(copy)
    with pytest.raises(StateError, match="folder that all workers share"):
        train.report(0, 1e-5)
    again = trainer(ledgers=tmp_path / "there")
    assert again.report(0, 1e-5).epsilon > 0
    (tmp_path / "there" / "client-0.jsonl").unlink()
    with pytest.raises(StateError, match="is gone"):
        again.report(0, 1e-5)


def test_a_temporary_folder_goes_with_its_owner() -> None:
    ledgers = ClientLedgers(UNIT)
    folder = ledgers.folder
    copy = pickle.loads(pickle.dumps(ledgers))  # noqa: S301
    del copy
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0
    del ledgers
    assert not folder.exists()


class Unused(nn.Module):
    """A layer that takes no part, and one whose weight is used from outside."""

    def __init__(self, outside: bool) -> None:
        super().__init__()
        self.used, self.other, self.outside = nn.Linear(5, 2), nn.Linear(5, 2), outside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.used(x)
        return outputs + functional.linear(x, self.other.weight) if self.outside else outputs


def test_an_unused_layer_is_noised_and_one_used_from_outside_is_named() -> None:
    train = trainer(Unused(False), noise_multiplier=2.0, batch_size=120, steps=1, learning_rate=1.0)
    part = train.layout.split(run(train))["other.weight"]
    assert part.std() == pytest.approx(2 / 120, rel=0.9)
    with pytest.raises(ConfigError, match=r"no per-example gradient of other\.weight"):
        run(trainer(Unused(True)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, bool])
def test_integer_examples_are_class_numbers_of_an_embedding(dtype: Any) -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Embedding(2, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.table(x).mean(1))  # type: ignore[no-any-return]

    assert np.abs(run(trainer(Text(), lambda client: ((X > 0).astype(dtype), Y.astype(dtype))))).max() > 0


def test_features_of_the_wrong_type_are_refused_with_the_fix() -> None:
    with pytest.raises(ConfigError, match=r"features of torch\.int64: return features\.astype\(np\.float32\)"):
        run(trainer(given=lambda client: ((X > 0).astype(np.uint8), Y)))
    with pytest.raises(ConfigError, match=r"features of torch\.float32: return features\.astype\(np\.int64\)"):
        run(
            trainer(
                nn.Sequential(nn.Embedding(2, 4), nn.Flatten(), nn.Linear(20, 2)), lambda client: (np.float32(X > 0), Y)
            )
        )


def test_only_trained_parameters_are_sent_and_noised() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    module[:2].requires_grad_(False)
    train = trainer(module)
    assert train.layout.size == 10
    after = train.module(train.initial() + run(train))
    assert torch.equal(after[0].weight, module[0].weight)
    assert torch.equal(after[1].running_mean, module[1].running_mean)
    assert not torch.equal(after[2].weight, module[2].weight)


def test_ignored_labels_do_not_change_the_gradients_of_others() -> None:
    settings = {"noise_multiplier": 1e-9, "clip_norm": 50.0, "batch_size": 4, "steps": 1, "learning_rate": 1.0}
    labels = np.array([1, -100, -100, -100])
    found = run(trainer(given=lambda client: (X[:4], labels), **settings))
    module = linear()
    functional.cross_entropy(module(torch.from_numpy(X[:1])), torch.tensor([1])).backward()
    gradient = torch.cat([parameter.grad.ravel() for parameter in module.parameters()]).numpy()
    np.testing.assert_allclose(found, -gradient / 4, atol=1e-6)


def test_a_loss_of_ones_own_that_is_a_mean_trains_as_the_built_in_one_does() -> None:
    own = run(trainer(loss=lambda output, targets: 1.0 * cross_entropy(output, targets)))
    np.testing.assert_allclose(own, run(trainer()), atol=1e-6)


def test_what_would_make_epsilon_untrue_is_refused() -> None:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)))
    weights = torch.utils.data.WeightedRandomSampler(np.ones(120), 30)
    weighted = torch.utils.data.DataLoader(loader.dataset, sampler=weights)
    for given in (loader, weighted):
        with pytest.raises(ConfigError, match="Poisson sampling, which its epsilon assumes"):
            trainer(given=given)
        with pytest.raises(ConfigError, match="Batches are sampled here, so give no loader"):
            run(trainer(given=lambda client, held=given: held))
    with pytest.raises(ConfigError, match="give the plain module"):
        trainer(GradSampleModule(linear()))

    def private(parameters: Any) -> Any:
        inner = torch.optim.SGD(parameters, lr=0.1)
        return DPOptimizer(inner, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=30)

    with pytest.raises(ConfigError, match="return the plain torch optimizer"):
        run(trainer(optimizer=private))
    with pytest.raises(ConfigError, match="mixes the examples of a batch"):
        trainer(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)))
    for loss in (
        lambda output, targets: functional.cross_entropy(output, targets, weight=torch.tensor([1.0, 9.0])),
        lambda output, targets: functional.cross_entropy(output, targets, reduction="sum"),
    ):
        with pytest.raises(ConfigError, match="not the mean of the losses of its examples"):
            run(trainer(loss=loss))
    with pytest.raises(ConfigError, match="by y - 1"):
        run(trainer(given=lambda client: (X, Y + 1)))
    with pytest.raises(ConfigError, match="all its parameters are frozen"):
        trainer(linear().requires_grad_(False))
    with pytest.raises(ConfigError, match=r"no per-example gradients|cannot clip"):
        trainer(nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(5, 2))))
