"""Each script of this folder, run as a user would run it: what it demands must hold."""

import ast
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

OPEN: Final[dict[str, str]] = {}


BEYOND: Final = {
    "batch_of_one_under_batchnorm": {
        "tests/adapters/test_torch_models.py": (
            "test_a_batch_of_one_under_batchnorm_is_trained_with_running_statistics",
            "test_drop_last_leaves_smaller_batches_out_and_never_all",
        ),
    },
    "client_session_cannot_be_saved": {
        "tests/unit/sums/test_session_saved.py": (
            "test_every_client_and_the_server_are_killed_after_every_message",
            "test_one_state_is_restored_at_most_once_whoever_asks",
            "test_the_bytes_hold_no_long_term_key_and_the_vector_only_until_it_is_sent",
        ),
        "tests/unit/fl/test_fl_parties.py": ("test_both_halves_are_saved_and_restored_between_any_two_messages",),
    },
    "epsilon_asked_with_other_settings": {
        "tests/unit/experiment/test_run_folder.py": (
            "test_settings_that_do_not_matter_change_no_figure",
            "test_a_figure_that_is_asked_with_other_settings_is_refused",
            "test_a_figure_that_is_asked_with_other_dropouts_or_data_is_refused",
        ),
    },
    "five_hospitals_too_much_noise": {
        "tests/unit/experiment/test_figures_cover_what_is_seen.py": (
            "test_noise_shares_are_sized_for_what_the_sum_opens",
        ),
        "tests/unit/fl/test_fl_plan.py": (
            "test_noise_shares_are_sized_for_what_the_sum_opens",
            "test_sampled_cohorts_share_one_total_variance_that_covers_each_of_them",
        ),
        "tests/unit/sums/test_shortfall.py": ("test_each_sum_states_its_own_minimum",),
    },
    "frozen_layers_get_noise": {
        "tests/adapters/test_torch_models.py": (
            "test_only_what_is_trained_is_in_the_vector",
            "test_a_frozen_norm_keeps_its_statistics_and_a_trained_one_sends_them",
        ),
    },
    "import_without_unix_modules": {
        "tests/architecture/test_light_imports.py": ("test_every_module_imports_where_unix_is_absent",),
    },
    "lasting_credentials_after_a_crash": {
        "tests/equivalence/test_runs_lasting.py": (
            "test_a_run_goes_on_after_every_crash",
            "test_each_attempt_is_charged_under_the_number_that_the_clients_saw",
        ),
    },
    "lasting_credentials_second_run": {
        "tests/equivalence/test_runs_lasting.py": ("test_a_second_run_from_the_same_first_model_trains",),
    },
    "liars_get_honest_clients_named": {
        "tests/attacks/test_lying_shares.py": (
            "test_liars_never_get_honest_clients_named",
            "test_honest_clients_are_never_named_whatever_liars_and_dealers_do",
        ),
    },
    "models_torch_train_cannot_take": {
        "tests/adapters/test_torch_models.py": ("test_what_cannot_be_trained_is_refused_in_one_sentence",),
    },
    "numpy_scalars_refused": {
        "tests/unit/experiment/test_experiment_config.py": ("test_numpy_scalars_are_the_numbers_that_they_are",),
        "tests/properties/test_config_properties.py": ("test_numpy_numbers_are_taken_as_python_s",),
        "tests/unit/test_checks.py": (
            "test_a_sweep_over_arrays_is_one_over_numbers",
            "test_a_run_of_numpy_scalars_is_one_of_numbers",
        ),
    },
    "odd_labels_accepted": {
        "tests/adapters/test_torch_labels.py": (
            "test_labels_that_would_be_misread_are_refused_with_the_fix",
            "test_two_classes_however_they_are_typed",
        ),
    },
    "one_liar_everybody_blamed": {
        "tests/attacks/test_lying_shares.py": (
            "test_one_liar_is_named_and_nobody_else",
            "test_one_liar_on_a_ring_is_named_and_nobody_else",
        ),
    },
    "one_run_one_outsider_figure": {
        "tests/equivalence/test_one_epsilon_everywhere.py": (
            "test_every_door_gives_one_figure",
            "test_some_configurations_give_a_run",
        ),
    },
    "one_truth_of_a_round": {
        "tests/unit/fl/test_fl_parties.py": (
            "test_run_round_refuses_a_plan_that_is_not_of_this_model_or_sum",
            "test_a_policy_that_demands_noise_is_not_met_by_a_plan_without_it",
            "test_the_encoding_of_the_plan_is_the_only_one",
            "test_the_servers_state_must_carry_the_clip_norm_of_the_plan",
        ),
        "tests/unit/fl/test_fl_plan.py": (
            "test_a_plan_serves_the_sum_that_it_names_and_no_other",
            "test_a_policy_judges_the_mechanism_that_will_run",
        ),
    },
    "overlapping_sums_share_a_key": {
        "tests/machines/test_ckks_overlapping.py": (
            "test_two_sums_that_advertise_before_either_goes_on_both_open",
            "test_any_interleaving_of_four_sums_opens_all_of_them",
            "test_a_reserved_use_counts_even_if_the_sum_is_never_opened",
        ),
    },
    "planned_epsilon_against_the_server": {
        "tests/unit/dp/test_one_epsilon.py": (
            "test_planned_central_noise_promises_nothing_to_those_who_see_the_sum_before_it",
            "test_distributed_noise_is_none_against_a_server_that_sees_vectors",
            "test_planned_is_finished",
        ),
        "tests/unit/cli/test_cli_epsilon.py": (
            "test_a_planned_run_promises_nothing_to_those_who_see_the_sum_before_its_noise",
        ),
    },
    "refused_claim_leaves_a_run": {
        "tests/unit/experiment/test_run_folder.py": (
            "test_a_refused_claim_leaves_no_folder",
            "test_an_error_before_the_first_round_leaves_no_folder",
            "test_a_refusal_removes_nothing_of_somebody_else",
        ),
    },
    "refused_opening_is_not_refunded": {
        "tests/unit/experiment/test_figures_cover_what_is_seen.py": (
            "test_a_sum_that_arrived_is_charged_though_its_message_was_refused",
        ),
        "tests/unit/sums/test_descriptions.py": (
            "test_an_abort_of_a_masked_sum_is_unopened_until_shares_are_asked_for",
            "test_an_abort_of_a_ckks_sum_is_unopened_until_an_opener_is_asked",
            "test_an_abort_of_a_plain_sum_is_unopened_only_if_no_vector_arrived",
        ),
        "tests/unit/fl/test_fl_parties.py": ("test_a_masked_round_is_refunded_only_before_its_signatures_left",),
    },
    "resume_takes_another_train": {
        "tests/unit/experiment/test_given_objects.py": (
            "test_a_run_does_not_go_on_with_another_object",
            "test_a_fingerprint_sees_what_is_computed_and_not_where",
        ),
    },
    "skip_threshold_of_the_sum": {
        "tests/unit/experiment/test_figures_cover_what_is_seen.py": (
            "test_epsilon_covers_skipped_rounds_or_counts_no_sampling",
        ),
        "tests/unit/dp/test_draws.py": ("test_the_theorem_covers_the_skip_bits_exactly",),
        "tests/unit/sums/test_shortfall.py": (
            "test_whatever_the_step_at_which_clients_leave_the_bound_holds",
            "test_a_cohort_that_can_never_open_falls_short_with_certainty",
        ),
    },
    "train_without_data": {
        "tests/unit/experiment/test_given_objects.py": (
            "test_a_train_without_data_needs_its_clients",
            "test_data_and_clients_exclude_each_other",
        ),
    },
    "two_ledgers_one_judged": {
        "tests/unit/dp/test_one_epsilon.py": ("test_several_ledgers_are_judged_together",),
        "tests/unit/cli/test_cli_app.py": (
            "test_a_second_value_of_an_option_is_refused",
            "test_a_second_override_of_a_key_is_refused",
        ),
    },
    "two_writers_of_one_run": {
        "tests/unit/experiment/test_run_folder.py": (
            "test_a_folder_has_one_writer_at_a_time",
            "test_a_killed_writer_gives_the_folder_back",
            "test_a_lock_whose_file_was_removed_is_no_lock",
        ),
        "tests/unit/cli/test_cli_compare.py": ("test_a_comparison_has_one_writer_at_a_time",),
    },
    "typed_sections_do_not_validate": {
        "tests/unit/experiment/test_experiment_config.py": ("test_sections_are_checked_when_they_are_constructed",),
        "tests/properties/test_config_properties.py": ("test_a_section_refuses_what_a_file_does",),
    },
}
"""The tests that cover a script's kind of fault with other inputs than the script's."""


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
    assert SLOW | set(OPEN) | set(BEYOND) <= set(SCRIPTS)


@pytest.mark.parametrize("name", BEYOND)
def test_a_kind_of_fault_is_covered_next_to_the_code(name: str) -> None:
    for path, tests in BEYOND[name].items():
        body = ast.parse((CHECKOUT / path).read_text()).body
        assert set(tests) <= {node.name for node in body if isinstance(node, ast.FunctionDef)}, path
