"""Inversions: exact where they must be, from sums what a sum reveals, and noise under noise."""

import numpy as np
import pytest

from privfl.data import load
from privfl.errors import ConfigError
from privfl.experiment import AttackPlan, Experiment, InversionResult, attack
from privfl.experiment.attack.inversion import FirstLayer, invert_classes, invert_one, similarity
from privfl.fl.linear import LinearModel, LinearTrain

DIGITS = {"data.name": "digits", "data.clients": 5}


def inverted(plan: AttackPlan, **overrides: object) -> InversionResult:
    result = attack(Experiment(overrides={**DIGITS, **overrides}), "inversion", plan=plan)
    assert isinstance(result, InversionResult)
    return result


@pytest.fixture(scope="module")
def digits() -> InversionResult:
    return inverted(AttackPlan(images=4))


def test_one_example_is_recovered_exactly_from_a_plain_update(digits: InversionResult) -> None:
    plain = digits.cases[0]
    assert plain.name == "plain update"
    assert plain.recovered == len(digits.truths) == 4
    assert np.abs(plain.images - digits.truths).max() < 1e-4  # the grain of the encoding
    assert plain.psnrs.min() > 80


def test_noise_hides_what_a_plain_update_reveals(digits: InversionResult) -> None:
    for case, epsilon in zip(digits.cases[2:5], (8, 3, 1), strict=True):
        assert case.report is not None
        assert 0.98 * epsilon < case.report.epsilon <= epsilon
        assert case.report.observer == "server"
        assert not case.recovered
        assert np.median(case.correlations) < np.median(digits.cases[-1].correlations)  # below a guess


def test_the_last_case_is_a_guess_without_any_update(digits: InversionResult) -> None:
    guess = digits.cases[-1]
    labels = load("digits")
    assert guess.report is None
    assert guess.correlations.min() > 0.5
    assert not np.array_equal(guess.images[0], digits.truths[0])
    assert len(labels.classes) == 10


def test_examples_and_reconstructions_are_not_in_the_record(digits: InversionResult) -> None:
    record = digits.as_dict()
    assert [case["case"] for case in record["cases"]][:2] == ["plain update", "masked sum"]
    assert "images" not in record["cases"][0]
    assert "truths" not in record
    assert "proves nothing" in record["limits"]


@pytest.mark.parametrize("client", [{"client.update": "gradient"}, {"client.epochs": 3, "client.learning_rate": 0.5}])
def test_local_steps_do_not_hide_one_example(client: dict[str, object]) -> None:
    result = inverted(AttackPlan(images=2, epsilons=()), **client)
    assert result.cases[0].recovered == 2


def test_a_small_batch_is_recovered_but_for_examples_of_one_class() -> None:
    result = inverted(AttackPlan(images=6, examples=3, epsilons=()), **{"client.update": "gradient"})
    assert result.cases[0].recovered >= 3
    assert result.cases[0].correlations.max() > 0.9999


def test_a_network_reveals_one_example_by_its_first_layer() -> None:
    pytest.importorskip("torch")
    result = inverted(AttackPlan(images=2, epsilons=()), **{"model.kind": "mlp", "model.hidden": [16]})
    assert result.cases[0].recovered == 2
    assert result.cases[0].psnrs.min() > 60


def test_a_model_without_a_linear_first_layer_is_refused() -> None:
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match="needs a model whose first layer is linear"):
        inverted(AttackPlan(images=1, epsilons=()), **{"model.kind": "cnn"})


def test_a_training_with_a_state_is_refused() -> None:
    with pytest.raises(ConfigError, match="fedavg"):
        inverted(AttackPlan(images=1), **{"client.algorithm": "scaffold"})


def test_a_run_in_which_the_target_is_seen_once_is_refused() -> None:
    with pytest.raises(ConfigError, match="a target in every round"):
        inverted(AttackPlan(images=1), **{"cohort.sampling": "one-pass", "cohort.size": 5, "rounds": 1})


def test_too_few_examples_are_refused_with_the_flag() -> None:
    with pytest.raises(ConfigError, match="lower --examples"):
        inverted(AttackPlan(examples=5000))


def test_table_rows_are_inverted_too() -> None:
    experiment = Experiment(overrides={"data.standardize": "public"})
    result = attack(experiment, "inversion", plan=AttackPlan(images=2, epsilons=(3.0,)))
    assert isinstance(result, InversionResult)
    assert result.side is None
    assert result.cases[0].recovered == 2
    assert not result.cases[2].recovered


def test_equal_seeds_give_equal_examples() -> None:
    first, second = (inverted(AttackPlan(images=2, epsilons=(), seed=7)) for _ in range(2))
    assert np.array_equal(first.truths, second.truths)
    assert np.array_equal(first.cases[1].images, second.cases[1].images)
    assert not np.array_equal(first.truths, inverted(AttackPlan(images=2, epsilons=(), seed=8)).truths)


def gradient(features: np.ndarray, labels: np.ndarray, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    model = LinearModel("softmax", features.shape[1], classes)
    layer = FirstLayer.of(LinearTrain(model, lambda _: (features, labels)), features.shape[1])
    return layer.split(-model.gradient(model.initial(), features, labels))


def test_the_means_of_classes_come_out_of_a_gradient_at_zero() -> None:
    features, labels = np.random.default_rng(0).random((5, 7)), np.array([0, 0, 0, 2, 3])
    counts, means = invert_classes(*gradient(features, labels), 5, mean=np.zeros(7))
    assert counts == pytest.approx([3, 0, 1, 1], abs=1e-9)
    assert means[0] == pytest.approx(features[:3].mean(axis=0))
    assert means[2] == pytest.approx(features[3])


def test_an_absent_class_reveals_the_scale_of_a_clipped_update() -> None:
    features = np.random.default_rng(1).random((2, 7))
    weights, bias = gradient(features, np.array([1, 3]))
    _, means = invert_classes(0.01 * weights, 0.01 * bias, 2, mean=np.zeros(7))
    assert means[3] == pytest.approx(features[1])


def test_with_every_class_present_the_reference_mean_stands_in_for_the_sum() -> None:
    features, labels = np.random.default_rng(2).random((8, 7)), np.arange(8) % 4
    _, means = invert_classes(*gradient(features, labels), 8, mean=features.mean(axis=0))
    assert means[1] == pytest.approx(features[[1, 5]].mean(axis=0))


def test_an_update_of_zeros_inverts_to_zeros() -> None:
    assert not invert_one(np.zeros((3, 2)), np.zeros(2)).any()


def test_similarity_counts_shape_and_error() -> None:
    truth = np.array([0.0, 1.0, 0.5])
    assert similarity(truth, truth, 1.0) == (pytest.approx(1.0), 120.0)
    correlation, psnr = similarity(truth + 0.1, truth, 1.0)
    assert correlation == pytest.approx(1.0)
    assert psnr == pytest.approx(20.0)
    assert similarity(np.ones(3), truth, 1.0)[0] == 0.0


@pytest.mark.parametrize(
    "wrong",
    [{"epsilons": (1.0, 1.0)}, {"epsilons": (0.0,)}, {"trials": 3}, {"images": 0}, {"examples": 0}, {"check": -1}],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        AttackPlan(**wrong)  # type: ignore[arg-type]
