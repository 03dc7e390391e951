"""NVFlare's own task server and serializer over secure sums, in this process: nothing leaves in the clear."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="run in the environment of `make nvflare`, which installs nvflare")

from federations import Federation, federation
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from nvflare.fuel.utils import fobs
from nvflare_jobs import Engine, Job, Trainer, arrays, job, serving, started

from privfl.adapters.nvflare import NamedLayout, SecureController, SecureExecutor, SecureRecipe
from privfl.errors import BudgetExceeded, ConfigError
from privfl.experiment.folder import RunFolder
from privfl.fl.frames import REFUSAL

START = np.linspace(-1, 1, 6).astype(np.float32)
PRIVATE = {"privacy.placement": "distributed", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 1.0}
METRICS = {"metrics": ("train_loss",)}


def five(tmp_path: Path, **settings: object) -> Federation:
    return federation(tmp_path / "run", initial=START, settings=settings)


def run(fed: Federation, work: Job, **options: Any) -> RunFolder:
    with serving(fed, **METRICS | options):
        work.run()
    return RunFolder(fed.folder)


def plain_rounds(clients: list[int], rounds: int) -> np.ndarray:
    """Weighted averages of the trainers' arrays, as NVFlare's FedAvg makes them."""
    model = START
    layout = NamedLayout.of(arrays(START))
    for round in range(1, rounds + 1):
        asked = FLModelUtils.to_shareable(FLModel(ParamsType.FULL, layout.split(model), current_round=round))
        found = [
            FLModelUtils.from_shareable(Trainer(client).execute("train", asked, None, Signal())) for client in clients
        ]
        weights = [result.meta["NUM_STEPS_CURRENT_ROUND"] for result in found]
        mean = np.average([layout.flatten(result.params) for result in found], axis=0, weights=weights)
        model = mean.astype(np.float32)
    return model


def test_rounds_equal_plain_averages_and_need_one_task_for_each_client_and_step(tmp_path: Path) -> None:
    fed = five(tmp_path)
    work = job(fed)
    folder = run(fed, work)
    np.testing.assert_allclose(folder.store.latest().model, plain_rounds([0, 1, 2, 3, 4], 3), atol=1e-6)
    assert [report.status for report in folder.reports()] == ["trained"] * 3
    assert len(work.tasks) == len({identity for _, identity in work.tasks}) == 3 * 5 * 5


def test_no_answer_holds_arrays_metrics_or_counts(tmp_path: Path) -> None:
    fed = five(tmp_path)
    work = job(fed)
    answers: list[Shareable] = []
    work.change = lambda name, answer: answers.append(answer) or answer  # type: ignore[func-returns-value]
    run(fed, work)
    assert len(answers) == 3 * 5 * 5
    for answer in answers:
        assert {key for key in answer if not key.startswith("__")} == {"frame"}
        assert type(answer["frame"]) is bytes
    whole = b"".join(work.wire)
    assert b"NUM_STEPS" not in whole
    assert b"train_loss" not in b"".join(fobs.dumps(answer) for answer in answers)


def test_differences_and_trainers_without_steps(tmp_path: Path) -> None:
    fed = five(tmp_path)
    work = job(fed)
    for client in fed.sites:
        work.executors[f"site-{client}"].trainer = Trainer(client, ParamsType.DIFF)  # type: ignore[attr-defined]
    folder = run(fed, work)
    np.testing.assert_allclose(folder.store.latest().model, plain_rounds([0, 1, 2, 3, 4], 3), atol=1e-6)


@pytest.mark.parametrize("step", range(5))
def test_one_of_five_lost_at_each_step(tmp_path: Path, step: int) -> None:
    fed = federation(tmp_path / "run", initial=START, settings={"rounds": 1})
    work = job(fed)
    work.controller.step_timeout = 0.5
    seen: list[str] = []

    def lost(name: str, answer: Shareable) -> Shareable | None:
        seen.append(name)
        return None if name == "site-2" and seen.count(name) > step else answer

    work.change = lost
    folder = run(fed, work)
    staying = [0, 1, 3, 4] if step <= 2 else [0, 1, 2, 3, 4]
    np.testing.assert_allclose(folder.store.latest().model, plain_rounds(staying, 1), atol=1e-6)


def test_the_sender_is_the_authenticated_name(tmp_path: Path) -> None:
    """A client that answers in another's name is dropped, and the other is not."""
    fed = federation(tmp_path / "run", initial=START, settings={"rounds": 1})
    work = job(fed)
    other: dict[str, Shareable] = {}

    def exchanged(name: str, answer: Shareable) -> Shareable:
        other.setdefault(name, answer)
        if name == "site-2":
            while "site-3" not in other:
                pass
            answer["frame"] = other["site-3"]["frame"]
            answer.set_header("client", "site-3")
        return answer

    work.change = exchanged
    assert run(fed, work).reports()[0].dropouts == (2,)


@pytest.mark.parametrize("what", ["clear", "text", "refusal", "error"])
def test_answers_that_are_no_frames_drop_their_sender(tmp_path: Path, what: str) -> None:
    fed = federation(tmp_path / "run", initial=START, settings={"rounds": 1})
    work = job(fed)

    def change(name: str, answer: Shareable) -> Shareable:
        if name == "site-2":
            if what == "clear":
                answer["DXO"] = {"weights": [1.0]}
            answer["frame"] = {"text": "frame", "refusal": REFUSAL}.get(what, answer["frame"])
            if what == "error":
                answer.set_return_code(ReturnCode.EXECUTION_EXCEPTION)
        return answer

    work.change = change
    assert run(fed, work).reports()[0].dropouts == (2,)


def test_evaluation_is_a_sum_of_its_own(tmp_path: Path) -> None:
    fed = five(tmp_path)
    work = job(fed, evaluate=True)
    folder = run(fed, work, evaluation=("eval_loss",))
    assert [set(report.evaluation) for report in folder.reports()] == [{"eval_loss"}] * 3
    trainer = work.executors["site-1"].trainer  # type: ignore[attr-defined]
    assert trainer.asked == ["train", "validate"] * 3


def test_the_next_job_resumes_the_folder_of_an_aborted_one(tmp_path: Path) -> None:
    fed = five(tmp_path)
    work = job(fed)

    def change(name: str, answer: Shareable) -> Shareable:
        if len(work.tasks) > 5 * 5 + 7:
            work.abort.trigger(True)
        return answer

    work.change = change
    folder = run(fed, work)
    assert folder.store.latest().round == 1
    assert (fed.folder / "exchange.state").exists()
    after = job(fed)
    folder = run(fed, after)
    np.testing.assert_allclose(folder.store.latest().model, plain_rounds([0, 1, 2, 3, 4], 3), atol=1e-6)
    assert len(after.tasks) < 2 * 5 * 5  # the steps before the interruption are not asked again


def test_a_lost_or_other_mechanism_ends_the_job_before_its_first_task(tmp_path: Path) -> None:
    fed = five(tmp_path, **PRIVATE)
    with pytest.raises(TypeError, match="mechanism"):
        SecureController("nvflare_jobs:open_server")  # type: ignore[call-arg]
    work = job(fed, mechanism="none")
    with pytest.raises(ConfigError, match="mechanism = 'none', and the charter states 'distributed'"):
        run(fed, work, metrics=())
    assert not work.tasks
    work = job(fed, mechanism="distributed")
    folder = run(fed, work, metrics=())
    assert [release.round for release in folder.ledger.releases] == [1, 2, 3]


def test_a_spent_budget_ends_the_job_with_the_last_paid_model(tmp_path: Path) -> None:
    budget = {"privacy.epsilon": 9.0, "privacy.delta": 1e-3, "rounds": 50}
    fed = five(tmp_path, **PRIVATE | budget)
    work = job(fed, mechanism="distributed")
    with pytest.raises(BudgetExceeded):
        run(fed, work, metrics=())
    assert 0 < RunFolder(fed.folder).store.latest().round < 50


def test_a_client_that_is_no_site_is_not_asked(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run", initial=START, settings={"rounds": 1})
    work = job(fed)
    work.executors["stranger"] = work.executors["site-0"]
    run(fed, work)
    assert {name for name, _ in work.tasks} == {f"site-{client}" for client in range(5)}


def executed(executor: SecureExecutor, task: str, data: Shareable) -> Shareable:
    with Engine(["site-0"]).new_context("site-0") as context:
        return executor.execute(task, data, context, Signal())


def test_anything_but_a_frame_gets_one_fixed_error_and_trains_nothing(tmp_path: Path) -> None:
    fed = five(tmp_path)
    trainer = Trainer(0)
    executor = SecureExecutor("nvflare_jobs:open_site", trainer)
    clear = FLModelUtils.to_shareable(FLModel(ParamsType.FULL, arrays(START), current_round=1))
    text = Shareable()
    text["frame"] = "frame"
    with serving(fed):
        for task, data in (("train", clear), ("validate", clear), ("privfl", clear), ("privfl", text)):
            reply = executed(executor, task, data)
            assert dict(reply) == dict(make_reply(ReturnCode.EXECUTION_EXCEPTION))
    assert not trainer.asked


def test_the_reason_of_a_failing_trainer_stays_at_the_client(tmp_path: Path) -> None:
    fed = federation(tmp_path / "run", initial=START, settings={"rounds": 1})

    class Failing(Trainer):
        def execute(self, task_name: str, shareable: Shareable, fl_ctx: Any, abort_signal: Signal) -> Shareable:
            raise ValueError("the patient of row 17 is 93 years old")

    work = job(fed)
    work.executors["site-2"] = SecureExecutor("nvflare_jobs:open_site", Failing(2))
    assert run(fed, work).reports()[0].dropouts == (2,)
    assert not any(b"93 years" in data for data in work.wire)


def test_a_job_that_would_leak_logged_metrics_does_not_start() -> None:
    executor = SecureExecutor("nvflare_jobs:open_site", Trainer(0))
    assert EventType.FATAL_SYSTEM_ERROR not in started(executor, {}).fired
    widget = ConvertToFedEvent(["analytix_log_stats"], "fed.")
    assert EventType.FATAL_SYSTEM_ERROR in started(executor, {"event_to_fed": widget}).fired
    outside = ClientAPIExecutor(execution_mode="external_process", command="python3 custom/train.py")
    assert EventType.FATAL_SYSTEM_ERROR in started(SecureExecutor("nvflare_jobs:open_site", outside), {}).fired
    assert EventType.FATAL_SYSTEM_ERROR in started(SecureExecutor("nowhere:open_site", None), {}).fired


@pytest.mark.parametrize("name", ["nvflare_jobs", "nvflare_jobs:", ":open_site", "nvflare_jobs:NAMES", 3])
def test_a_name_that_is_no_function_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="open_server = "):
        SecureController(name, "none").start_controller(None)


def test_an_exported_job_keeps_every_argument_and_holds_no_code_of_this_project(tmp_path: Path) -> None:
    script = tmp_path / "client.py"
    script.write_text("import nvflare.client as flare\n")
    recipe = SecureRecipe(
        name="job",
        min_clients=5,
        mechanism="distributed",
        open_server="app:server",
        open_site="app:site",
        train_script=str(script),
        train_args="--rate 0.1",
        step_timeout=7.0,
        evaluate=True,
    )
    recipe.export(str(tmp_path / "jobs"))
    config = tmp_path / "jobs" / "job" / "app" / "config"
    (workflow,) = json.loads((config / "config_fed_server.json").read_text())["workflows"]
    assert workflow["path"] == "privfl.adapters.nvflare.controller.SecureController"
    assert workflow["args"] == {
        "open_server": "app:server",
        "mechanism": "distributed",
        "step_timeout": 7.0,
        "evaluate": True,
    }
    client = json.loads((config / "config_fed_client.json").read_text())
    (executor,) = client["executors"]
    assert executor["tasks"] == ["privfl"]
    assert executor["executor"]["args"]["open_site"] == "app:site"
    trainer = executor["executor"]["args"]["trainer"]
    assert trainer["args"]["task_script_args"] == "--rate 0.1"
    assert not any("convert" in str(component).lower() for component in client.get("components", []))
    assert not list((tmp_path / "jobs").rglob("privfl"))
