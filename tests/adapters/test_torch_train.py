"""Local training: torch's own arithmetic, repeatable, and without a trace of one client in another."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from each_client import each
from torch import nn

from privfl.adapters.torch import Layout, Sgd, TorchTrain, accuracy, binary_cross_entropy, squared_error
from privfl.adapters.torch.state import one_thread
from privfl.codec import FixedPoint, Vector
from privfl.engine import LoopExecutor, ProcessExecutor
from privfl.errors import ClientFailed, ConfigError
from privfl.fl.client import Train, client_rng
from privfl.fl.linear import minibatches
from privfl.ring import Ints, Ring
from privfl.sums import PlainSum, SumTask, run_sum

RNG = np.random.default_rng(5)
X = RNG.normal(size=(90, 6)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.3)
Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def rows(client: int) -> Arrays:
    """Clients 0..8 with 10 rows each; client 9 has none."""
    return X[client * 10 : client * 10 + 10], Y[client * 10 : client * 10 + 10]


def mlp() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def norms() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3))


def run(train: Train, client: int = 0, *, model: Vector | None = None, round: int = 0, seed: int = 1) -> Any:
    start = train.initial() if model is None else model  # type: ignore[attr-defined]
    return train(start, client, round, client_rng(seed, round, client))


def by_hand(module: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any], client: int = 0) -> Vector:
    """The bare loop that everybody writes."""
    layout = Layout.of(module)
    before = layout.flatten(module)
    x, y = (torch.from_numpy(part) for part in rows(client))
    for batch in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
        optimizer.step()
    return layout.flatten(module) - before


RULES = [
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.1},
    {"momentum": 0.5, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True},
]


@pytest.mark.parametrize("options", RULES)
@pytest.mark.parametrize("flat", [True, False])
def test_sgd_is_torchs_sgd(options: dict[str, Any], flat: bool) -> None:
    factory = Sgd(0.3, **options) if flat else partial(torch.optim.SGD, lr=0.3, **options)
    update = run(TorchTrain(mlp(), rows, optimizer=factory, epochs=4, batch_size=3), 2)
    module = mlp()
    batches = minibatches(10, 3, 4, None, client_rng(1, 0, 2))
    expected = by_hand(module, torch.optim.SGD(module.parameters(), lr=0.3, **options), batches, 2)
    np.testing.assert_allclose(update.delta, expected, atol=1e-6)
    assert update.delta.dtype == np.float32
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.Adagrad, torch.optim.RMSprop])
def test_any_optimizer_of_torchs_starts_afresh_for_each_client(optimizer: type[torch.optim.Optimizer]) -> None:
    train = TorchTrain(mlp(), rows, optimizer=lambda p: optimizer(p, lr=0.02), steps=7, batch_size=4)
    first = run(train, 0)
    module = mlp()
    batches = minibatches(10, 4, 1, 7, client_rng(1, 0, 0))
    np.testing.assert_array_equal(first.delta, by_hand(module, optimizer(module.parameters(), lr=0.02), batches))  # type: ignore[call-arg]
    run(train, 1)
    np.testing.assert_array_equal(run(train, 0).delta, first.delta)


def test_momentum_and_statistics_do_not_go_from_one_client_to_the_next() -> None:
    train = TorchTrain(norms(), rows, optimizer=Sgd(0.1, momentum=0.9), epochs=2, batch_size=5)
    first = run(train, 0)
    others = [run(train, client).delta for client in (1, 2)]
    assert run(train, 0).delta.tobytes() == first.delta.tobytes()
    assert run(
        TorchTrain(norms(), rows, optimizer=Sgd(0.1, momentum=0.9), epochs=2, batch_size=5), 1
    ).delta.tobytes() == (others[0].tobytes())
    assert (first.delta != others[0]).any()


@pytest.mark.parametrize("buffers", ["shared", "local"])
def test_the_rule_for_batchnorm(buffers: Any) -> None:
    module = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    train = TorchTrain(module, rows, buffers=buffers, epochs=1)
    update = run(train)
    change = train.layout.split(update.delta)
    if buffers == "shared":
        np.testing.assert_allclose(change["0.running_mean"], 0.1 * X[:10].mean(0), rtol=1e-5)
        np.testing.assert_allclose(change["0.running_var"], 0.1 * (X[:10].var(0, ddof=1) - 1), rtol=1e-4, atol=1e-6)
    else:
        assert [name for name in change if "running" in name] == []
    assert "0.num_batches_tracked" not in change
    for _ in range(3):
        assert run(train).delta.tobytes() == update.delta.tobytes()
    assert train.module(train.initial())[0].num_batches_tracked == 0


def test_the_average_of_statistics_counts_from_the_start_for_every_client() -> None:
    # momentum=None averages over num_batches_tracked: were that integer to survive a client, the next would differ.
    module = nn.Sequential(nn.BatchNorm1d(6, momentum=None), nn.Linear(6, 3))
    train = TorchTrain(module, rows)
    run(train, 3)
    change = train.layout.split(run(train, 0).delta)
    np.testing.assert_allclose(change["0.running_mean"], X[:10].mean(0), rtol=1e-5)


def test_randomness_is_the_clients_own_and_leaves_no_trace() -> None:
    train = TorchTrain(norms(), rows, epochs=2, batch_size=5)
    torch.manual_seed(0)
    first = run(train)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert (torch.rand(3) == expected).all()
    torch.manual_seed(99)
    assert run(train).delta.tobytes() == first.delta.tobytes()
    assert run(train, seed=2).delta.tobytes() != first.delta.tobytes()
    assert run(train, round=1).delta.tobytes() != first.delta.tobytes()


def test_an_error_leaves_torchs_state_as_it_was() -> None:
    def broken(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    before = torch.get_num_threads()
    train = TorchTrain(norms(), rows, loss=broken, threads=before + 1)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with pytest.raises(ZeroDivisionError):
        run(train)
    assert torch.get_num_threads() == before
    assert (torch.rand(3) == expected).all()


def test_the_gradient_of_fedsgd_is_that_of_the_whole_and_does_not_depend_on_the_batches() -> None:
    deltas = [run(TorchTrain(mlp(), rows, update="gradient", batch_size=size, epochs=5)).delta for size in (None, 3, 1)]
    module = mlp()
    x, y = (torch.from_numpy(part) for part in rows(0))
    nn.functional.cross_entropy(module(x), y).backward()
    gradient = torch.cat([parameter.grad.ravel() for parameter in module.parameters()]).numpy()
    for delta in deltas:
        np.testing.assert_allclose(delta, -gradient, atol=1e-7)
    one_step = run(TorchTrain(mlp(), rows, optimizer=Sgd(1.0)))
    np.testing.assert_allclose(one_step.delta, deltas[0], atol=1e-6)


def test_metrics_are_means_over_the_rows_seen() -> None:
    update = run(TorchTrain(mlp(), rows, optimizer=Sgd(1e-9), batch_size=3, epochs=2))
    output = mlp()(torch.from_numpy(X[:10]))
    targets = torch.from_numpy(Y[:10])
    assert update.examples == 10
    assert update.metrics["loss"] == pytest.approx(nn.functional.cross_entropy(output, targets).item(), rel=1e-5)
    assert update.metrics["accuracy"] == pytest.approx(float((output.argmax(1) == targets).float().mean()))
    named = run(TorchTrain(mlp(), rows, metrics={"largest": lambda output, _: output.max()}))
    assert set(named.metrics) == {"loss", "largest"}


def test_regression_and_binary_targets() -> None:
    def regression(client: int) -> Arrays:
        x, _ = rows(client)
        return x.astype(np.float64), x[:, 2].astype(np.float64)

    update = run(TorchTrain(nn.Linear(6, 1), regression, loss=squared_error))
    assert set(update.metrics) == {"loss"}
    module = nn.Linear(6, 1)
    binary = TorchTrain(module, lambda c: (X, X[:, 3] > 0), loss=binary_cross_entropy, optimizer=Sgd(0.5), epochs=200)
    assert run(binary).metrics["accuracy"] > 0.9
    assert accuracy(torch.tensor([[2.0], [-1.0], [3.0], [1.0]]), torch.tensor([1, 0, 0, 1])) == 0.75
    with pytest.raises(ConfigError, match="one output for each target"):
        squared_error(torch.zeros(4, 2), torch.zeros(4))  # and no silent broadcast


def test_a_learning_rate_may_follow_the_round() -> None:
    for optimizer in (Sgd(1.0), partial(torch.optim.SGD, lr=1.0)):
        train = TorchTrain(mlp(), rows, optimizer=optimizer, learning_rate=lambda round: 0.5**round)
        full, half = run(train).delta, run(train, round=1).delta
        np.testing.assert_allclose(half, full / 2, rtol=1e-5, atol=1e-8)
    with pytest.raises(ConfigError, match="positive and finite, not 0"):
        run(TorchTrain(mlp(), rows, learning_rate=lambda round: 0))


def test_frozen_parameters_stay_and_a_gap_between_trained_ones_is_skipped() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    module[1].requires_grad_(False)
    train = TorchTrain(module, rows, optimizer=Sgd(0.1, weight_decay=0.5, momentum=0.5), epochs=3)
    change = train.layout.split(run(train).delta)
    for name, part in change.items():
        assert part.any() == (not name.startswith("1."))


def test_a_client_without_rows_contributes_nothing() -> None:
    update = run(TorchTrain(mlp(), rows), 9)
    assert (update.examples, dict(update.metrics)) == (0, {})
    assert not update.delta.any()


def test_nan_reaches_the_codec_which_refuses_it() -> None:
    train = TorchTrain(mlp(), lambda c: (X[:4] * np.nan, Y[:4]))
    update = run(train)
    assert np.isnan(update.delta).any()
    with pytest.raises(ConfigError, match="only finite values"):
        FixedPoint(2.0**10, Ring(32)).encode(update.delta, max_norm=1.0)


def test_read_only_and_strided_arrays_and_tensors_are_taken() -> None:
    fixed = X[:10].copy()
    fixed.flags.writeable = False
    expected = run(TorchTrain(mlp(), rows)).delta
    for features in (fixed, np.asfortranarray(X[:10]), X[9::-1][::-1], torch.from_numpy(X[:10])):
        given = partial(lambda part, client: (part, Y[:10].astype(np.uint8)), features)
        np.testing.assert_allclose(run(TorchTrain(mlp(), given)).delta, expected, atol=1e-7)


def test_a_float64_model_loses_nothing_to_the_cast() -> None:
    train = TorchTrain(mlp(), rows)
    start = train.initial().astype(np.float64) + 1e-12  # below float32's reach: must not show up in the delta
    np.testing.assert_array_equal(run(train, model=start).delta, run(train, model=start.astype(np.float32)).delta)
    double = TorchTrain(mlp().double(), rows)
    assert run(double).delta.dtype == np.float64


class Replacing(nn.Linear):
    """Puts new tensors in the place of old ones."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return super().forward(x)


def test_a_module_that_replaces_its_tensors_is_refused() -> None:
    with pytest.raises(ConfigError, match="replaced its tensor 'mean'"):
        run(TorchTrain(Replacing(), rows))
    module = mlp()

    def forgetful(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        for parameter in train._flat.trained:
            parameter.grad = None
        return nn.functional.cross_entropy(output, targets)

    train = TorchTrain(module, rows, loss=forgetful)
    with pytest.raises(ConfigError, match="replaced or dropped a gradient"):
        run(train)


WRONG: list[dict[str, Any]] = [
    {"epochs": 0},
    {"steps": 0},
    {"batch_size": 0},
    {"threads": 0},
    {"update": "weights"},
    {"device": "tpu"},
    {"device": "cuda:99"},
]


@pytest.mark.parametrize("options", WRONG)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        TorchTrain(mlp(), rows, **options)


@pytest.mark.parametrize(
    "options", [{"learning_rate": 0.0}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"nesterov": True}]
)
def test_wrong_rules_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"must be|positive|nesterov"):
        Sgd(**{"learning_rate": 0.1, **options})


def test_rows_that_do_not_match_are_refused() -> None:
    with pytest.raises(ConfigError, match="client 4 has 10 rows of features and 9 targets"):
        run(TorchTrain(mlp(), lambda c: (X[:10], Y[:9])), 4)


def test_the_module_of_a_model() -> None:
    original = norms()
    train = TorchTrain(original, rows, optimizer=Sgd(0.5))
    model = train.initial() + run(train).delta
    module = train.module(model)
    assert not module.training
    np.testing.assert_array_equal(train.layout.flatten(module), model)
    np.testing.assert_array_equal(train.layout.flatten(original), train.initial())
    run(train, 1)
    np.testing.assert_array_equal(train.layout.flatten(module), model)


def test_a_pickled_train_does_the_same() -> None:
    train = TorchTrain(norms(), rows, optimizer=Sgd(0.5), epochs=2, batch_size=4)
    expected = run(train)
    again = pickle.loads(pickle.dumps(train))  # noqa: S301 - our own, as spawning a worker does it
    assert run(again, model=train.initial()).delta.tobytes() == expected.delta.tobytes()


def test_loop_and_processes_give_the_same_model_bit_for_bit() -> None:
    torch.manual_seed(0)
    conv = nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 2),
        nn.BatchNorm2d(4),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    train = TorchTrain(conv, rows, optimizer=Sgd(0.1, momentum=0.9), batch_size=4, epochs=2)
    codec = FixedPoint(2.0**20, Ring(40))

    def work(model: Vector, client: int, order: bytes) -> Ints:
        round = int(order)
        return codec.encode(train(model, client, round, client_rng(4, round, client)).delta, max_norm=100.0)

    def final(executor: LoopExecutor | ProcessExecutor) -> bytes:
        model = train.initial()
        cohort = tuple(range(9))
        for number in range(3):
            task = SumTask(b"", cohort, 9, len(model), codec.ring, codec.bound(100.0))
            total = run_sum(PlainSum(), task, each(executor, work, model, cohort, order=b"%d" % number)).total
            model = model + codec.decode(total).astype(np.float32) / 9
        executor.close()
        return model.tobytes()

    expected = final(LoopExecutor())
    assert expected != train.initial().tobytes()
    for workers in (1, 2, 3):
        assert final(ProcessExecutor(workers, initializer=one_thread)) == expected


def test_workers_may_be_forked_after_torch_has_used_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.randn(600, 600) @ torch.randn(600, 600)  # starts the parent's pool of threads
        train = TorchTrain(mlp(), rows, epochs=2, batch_size=4)
        train(train.initial(), 0, 0, client_rng(0, 0, 0))  # and its autograd engine

        def work(model: Vector, client: int, order: bytes) -> Ints:
            (torch.randn(600, 600) @ torch.randn(600, 600)).sum()
            return (1e6 * train(model, client, 0, client_rng(0, 0, client)).delta).astype(np.int64)

        with ProcessExecutor(2, initializer=one_thread) as executor:
            assert len(list(each(executor, work, train.initial(), range(6), order=b""))) == 6
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_torchs_own_complaint_names_the_client() -> None:
    module = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(), mlp())  # checked by torch alone
    train = TorchTrain(module, lambda c: (X[:4, :5], Y[:4]))

    def work(model: Vector, client: int, order: bytes) -> Ints:
        return train(model, client, 0, client_rng(0, 0, client)).delta.astype(np.int64)

    with pytest.raises(ClientFailed, match=r"client 3 failed: \w+Error in work \(test_torch_train.py, line \d+\)") as e:
        list(each(LoopExecutor(), work, train.initial(), [3], order=b""))
    assert "size" in str(e.value.__cause__)
