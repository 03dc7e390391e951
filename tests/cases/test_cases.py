"""Each script of this folder, run as a user would run it: what it demands must hold."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

FOLDER: Final = Path(__file__).parent
CHECKOUT: Final = FOLDER.parents[1]
SCRIPTS: Final = sorted(path.stem for path in FOLDER.glob("*.py") if path != Path(__file__))

SLOW: Final = {
    "batch_of_one_under_batchnorm",
    "column_of_nan_learns_nothing",
    "compare_null_for_infinity",
    "epsilon_asked_with_other_settings",
    "fork_with_torch_threads_hangs",
    "frozen_layers_get_noise",
    "integer_first_vector",
    "models_torch_train_cannot_take",
    "numpy_scalars_refused",
    "odd_labels_accepted",
    "one_giant_client_costs_precision",
    "one_run_one_outsider_figure",
    "opacus_dropout_is_not_seeded",
    "opacus_epsilon_with_workers",
    "opacus_row_that_is_not_finite",
    "opacus_uint8_rows_and_unused_layer",
    "plot_as_pdf_holds_a_png",
    "regression_clipped_by_default",
    "skip_threshold_of_the_sum",
    "two_ledgers_one_judged",
    "two_writers_of_one_run",
}

OPEN: Final = {
    "batch_of_one_under_batchnorm": "a last batch of one example reaches BatchNorm, which raises in the client",
    "column_of_nan_learns_nothing": "an update that is not finite is left out without a caveat",
    "compare_null_for_infinity": "the record of `compare` writes infinity and no claim as null",
    "frozen_layers_get_noise": "parameters that are not trained are part of the vector",
    "integer_first_vector": "the first vector is taken with whatever type it has",
    "liars_get_honest_clients_named": "a failed opening blames without proof",
    "missing_values_message": "a missing value is found by the codec, which knows no column",
    "models_torch_train_cannot_take": "errors of torch reach the user",
    "natural_clients_measure_nothing": "a private run over natural clients measures nothing, without a caveat",
    "odd_labels_accepted": "labels are not compared with what the loss expects",
    "one_giant_client_costs_precision": "the scale is planned for the largest client, which cohorts hardly ever hold",
    "one_liar_everybody_blamed": "shares of one owner that disagree blame all of their holders",
    "opacus_dropout_is_not_seeded": "dropout is sampled from torch's global generator",
    "opacus_epsilon_with_workers": "steps that a forked worker took are not reported to the parent",
    "opacus_row_that_is_not_finite": "per-example clipping passes gradients that are not finite",
    "opacus_uint8_rows_and_unused_layer": "errors of torch and Opacus reach the user",
    "plot_as_pdf_holds_a_png": "a plot is a PNG whatever its name",
    "regression_clipped_by_default": "entries beyond the default clip are shortened without a caveat",
    "ring_planned_for_the_cohort": "the ring is planned for the cohort, not for the smallest roster",
    "training_loss_is_wrong": "a loss that is absent counts as 0, and one beyond the bound is capped without a caveat",
    "update_entries_clipped": "entries beyond the default clip are shortened without a caveat",
    "update_of_nan_is_silent": "an update that is not finite is left out without a caveat",
    "weights_capped_by_the_data": "example counts beyond those of the data are capped without a caveat",
}


class DoesNotHold(AssertionError):
    """The script ran to its end and found the fault."""


def marks(name: str) -> list[pytest.MarkDecorator]:
    slow = [pytest.mark.slow] if name in SLOW else []
    still = [pytest.mark.xfail(reason=OPEN[name], raises=DoesNotHold, strict=True)] if name in OPEN else []
    return [*slow, *still]


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in SCRIPTS])
def test_what_a_script_demands_holds(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py")],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    last = [*done.stdout.splitlines(), ""][-1 if not done.stdout else -2]
    if done.returncode == 1 and last.startswith("FAILS"):
        raise DoesNotHold(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lists_name_scripts_that_exist() -> None:
    assert SLOW | set(OPEN) <= set(SCRIPTS)
