"""Linear models: gradients against finite differences, training against closed forms."""

import numpy as np
import pytest

from privfl.errors import ConfigError
from privfl.fl.linear import LinearModel, LinearTrain, minibatches
from privfl.fl.metrics import LinearMeasure

RNG = np.random.default_rng(5)
X = RNG.normal(size=(40, 3))
LABELS = {
    "linear": X @ [1.0, -2.0, 0.5] + 3.0,
    "logistic": (X[:, 0] > 0).astype(float),
    "softmax": RNG.integers(0, 4, 40),
}
MODELS = {
    "linear": LinearModel("linear", 3, l2=0.1),
    "logistic": LinearModel("logistic", 3, l2=0.1),
    "softmax": LinearModel("softmax", 3, 4, l2=0.1),
}


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_the_gradient_is_the_slope_of_the_loss(kind: str) -> None:
    model, labels = MODELS[kind], LABELS[kind]
    point = RNG.normal(size=model.length)

    def objective(w: np.ndarray) -> float:
        weights = w[: -model.outputs]
        return float(model.loss(w, X, labels).mean() + 0.5 * model.l2 * (weights**2).sum())

    step = 1e-6
    slopes = [(objective(point + step * e) - objective(point - step * e)) / (2 * step) for e in np.eye(model.length)]
    np.testing.assert_allclose(model.gradient(point, X, labels), slopes, atol=1e-6)


def test_extreme_logits_give_finite_losses() -> None:
    for kind in ("logistic", "softmax"):
        model = MODELS[kind]
        assert np.isfinite(model.loss(np.full(model.length, 1e4), X, LABELS[kind])).all()
        assert np.isfinite(model.gradient(np.full(model.length, 1e4), X, LABELS[kind])).all()


def test_local_training_finds_the_least_squares_line() -> None:
    model = LinearModel("linear", 3)
    train = LinearTrain(model, lambda client: (X, LABELS["linear"]), learning_rate=0.1, epochs=400)
    update = train(model.initial(), 0, 1, np.random.default_rng(0))
    np.testing.assert_allclose(update.delta, [1.0, -2.0, 0.5, 3.0], atol=1e-3)
    assert update.examples == 40


def test_fedsgd_sends_minus_the_gradient() -> None:
    model = MODELS["softmax"]
    train = LinearTrain(model, lambda client: (X, LABELS["softmax"]), update="gradient")
    point = RNG.normal(size=model.length)
    np.testing.assert_array_equal(
        train(point, 0, 1, np.random.default_rng(0)).delta, -model.gradient(point, X, LABELS["softmax"])
    )


def test_a_client_without_rows_contributes_nothing() -> None:
    model = MODELS["linear"]
    update = LinearTrain(model, lambda client: (X[:0], X[:0, 0]))(model.initial(), 0, 1, np.random.default_rng(0))
    assert update.examples == 0
    assert not update.delta.any()


@pytest.mark.parametrize(
    ("rows", "size", "epochs", "steps"), [(10, 3, 2, None), (10, None, 3, None), (10, 4, 1, 7), (3, 8, 1, 5)]
)
def test_minibatches_cover_every_row_once_a_pass(rows: int, size: int | None, epochs: int, steps: int | None) -> None:
    batches = minibatches(rows, size, epochs, steps, np.random.default_rng(1))
    per_pass = -(-rows // min(size or rows, rows))
    assert len(batches) == (steps if steps is not None else epochs * per_pass)
    for start in range(0, len(batches) - per_pass + 1, per_pass):
        assert sorted(np.concatenate(batches[start : start + per_pass])) == list(range(rows))


def test_bad_parameters_are_refused() -> None:
    for build in (
        lambda: LinearModel("tree", 3),  # type: ignore[arg-type]
        lambda: LinearModel("logistic", 3, 2),
        lambda: LinearModel("softmax", 3, 1),
        lambda: LinearModel("linear", 0),
        lambda: LinearModel("linear", 3, l2=-1.0),
        lambda: LinearTrain(MODELS["linear"], lambda c: (X, X[:, 0]), learning_rate=0.0),
        lambda: LinearTrain(MODELS["linear"], lambda c: (X, X[:, 0]), epochs=0),
        lambda: LinearTrain(MODELS["linear"], lambda c: (X, X[:, 0]), update="weights"),  # type: ignore[arg-type]
        lambda: MODELS["linear"].scores(np.zeros(7), X),
    ):
        with pytest.raises(ConfigError):
            build()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 2, 2), r"takes 4 features on one axis, and an example has the shape \(2, 2\): return features\.reshape"),
        ((5,), "the model takes 4 features, and an example has 1: return 4"),
        ((5, 3), "the model takes 4 features, and an example has 3: return 4"),
    ],
    ids=["two-axes", "no-axis", "width"],
)
def test_examples_of_other_axes_are_refused_in_training_and_evaluation(shape: tuple[int, ...], message: str) -> None:
    model, rows = LinearModel("linear", 4), lambda client: (np.zeros(shape), np.zeros(5))
    train = LinearTrain(model, rows)
    start, rng = model.initial(), np.random.default_rng(0)
    for call in (
        lambda: train(start, 0, 1, rng),
        lambda: train.train_cohort(start, (0,), 1, [rng]),
        lambda: LinearMeasure(model, rows)(start, 0),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
