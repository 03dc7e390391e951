"""Flower's own strategies over secure sums, in this process: equal to plain Flower, and nothing leaves in the clear."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="run in the environment of `make flower`, which installs flwr")

from federations import Federation, federation
from flower_apps import LoopGrid, SiteOf, arrays, client_app, flat, secured
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as strategies

from privfl.adapters.flower import ArrayLayout, SecureGrid, SecureSumMod, relay
from privfl.adapters.flower.records import frame_record
from privfl.errors import BudgetExceeded, ConfigError
from privfl.experiment.folder import RunFolder
from privfl.fl.client_round import ClientRound

START = np.linspace(-1, 1, 6).astype(np.float32)
AVERAGING = {
    "FedAvg": {},
    "FedAvgM": {"server_momentum": 0.9},
    "FedAdam": {},
    "FedYogi": {},
    "FedAdagrad": {},
    "FedProx": {"proximal_mu": 0.5},
}
PRIVATE = {"privacy.placement": "distributed", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 1.0}


def make(name: str, **options: Any) -> Any:
    settings = {"min_train_nodes": 5, "min_evaluate_nodes": 5, "min_available_nodes": 5, **options}
    return getattr(strategies, name)(**settings)


def five(tmp_path: Path, **settings: object) -> tuple[Federation, LoopGrid]:
    fed = federation(tmp_path / "run", initial=START, settings=settings)
    return fed, LoopGrid({10 + client: client_app(client, secured(site)) for client, site in fed.sites.items()})


def secure_run(fed: Federation, inner: LoopGrid, strategy: Any, rounds: int = 3, **options: Any) -> Any:
    server = fed.server(metrics=("train_loss",), **{"evaluation": ("eval_loss",)} | options)
    with server:
        layout = ArrayLayout.of(arrays(START))
        grid = SecureGrid(inner, server, strategy, layout, poll=0.001, step_timeout=0.05)
        result = strategy.start(grid=grid, initial_arrays=grid.arrays, num_rounds=rounds)
        if result.arrays:
            grid.finish(result.arrays)
        return result


@pytest.mark.parametrize("name", AVERAGING)
def test_a_strategy_gives_what_it_gives_in_plain_flower(tmp_path: Path, name: str) -> None:
    fed, inner = five(tmp_path)
    found = secure_run(fed, inner, make(name, **AVERAGING[name]))
    plain = LoopGrid({10 + client: client_app(client, []) for client in range(5)})
    expected = make(name, **AVERAGING[name]).start(grid=plain, initial_arrays=arrays(START), num_rounds=3)
    np.testing.assert_allclose(flat(found.arrays), flat(expected.arrays), atol=1e-6)
    for kind in ("train_metrics_clientapp", "evaluate_metrics_clientapp"):
        ours, theirs = getattr(found, kind), getattr(expected, kind)
        assert ours.keys() == theirs.keys() == {1, 2, 3}
        for round in ours:
            assert dict(ours[round]) == pytest.approx(dict(theirs[round]), rel=1e-6)
    run = RunFolder(tmp_path / "run")
    np.testing.assert_array_equal(run.store.latest().model, flat(found.arrays).astype(np.float32))
    assert [set(report.evaluation) for report in run.reports()] == [{"eval_loss"}] * 3


def test_no_message_holds_arrays_or_counts_of_a_node(tmp_path: Path) -> None:
    fed, inner = five(tmp_path)
    replies: list[Message] = []
    inner.change = lambda reply: replies.append(reply) or reply  # type: ignore[func-returns-value]
    secure_run(fed, inner, make("FedAvg"))
    assert len(replies) == 5 * (1 + 3 * (5 + 5))  # a greeting once, then five steps each for training and evaluation
    for reply in replies:
        assert set(reply.content) == {"privfl"}
        assert set(frame_record(reply.content)) <= {"frame", "client"}
    for message in inner.sent:
        assert not message.content.array_records  # the model travels as bytes next to a frame


@pytest.mark.parametrize(("scheme", "seen"), [("plain", 5), ("masked", 0)])
def test_a_wire_tap_finds_no_update(tmp_path: Path, scheme: str, seen: int) -> None:
    """The bytes that leave the nodes are searched for the encoded vectors, counts included; a plain sum shows them."""
    fed = federation(tmp_path / "run", initial=START, settings={"sum.scheme": scheme})
    opened = {client: SiteOf(site) for client, site in fed.sites.items()}
    apps = {10 + client: client_app(client, [SecureSumMod(site.opened)]) for client, site in opened.items()}
    inner, captured = LoopGrid(apps), bytearray()

    def tap(reply: Message) -> Message:
        captured.extend(frame_record(reply.content).get("frame", b""))
        return reply

    inner.change = tap
    secure_run(fed, inner, make("FedAvg", fraction_evaluate=0.0), rounds=1)
    found = 0
    for client, site in opened.items():
        half = fed.sites[client].half
        assert isinstance(half, ClientRound)
        ring = half.plan.encoding.codec.ring
        vector = half.plan.encoding.encode(site.updates[-1], np.random.default_rng(0))
        words = ring.reduce(vector)
        forms = {
            vector.tobytes(),
            words.tobytes(),
            bytes(ring.pack(words, dense=True)),
            bytes(ring.pack(words, dense=False)),
        }
        found += any(form in captured for form in forms)
        assert site.updates[-1].delta.tobytes() not in captured
    assert found == seen


@pytest.mark.parametrize(
    "name",
    [
        "Krum",
        "MultiKrum",
        "Bulyan",
        "FedMedian",
        "FedTrimmedAvg",
        "QFedAvg",
        "FedXgbBagging",
        "FedXgbCyclic",
    ],
)
def test_a_strategy_that_needs_single_updates_is_refused_by_name(tmp_path: Path, name: str) -> None:
    fed, inner = five(tmp_path)
    options = {"client_learning_rate": 0.1} if name == "QFedAvg" else {}
    strategy = strategies.FedXgbCyclic() if name == "FedXgbCyclic" else make(name, **options)
    with fed.server() as server, pytest.raises(ConfigError, match=rf"{name} cannot run on a secure sum"):
        SecureGrid(inner, server, strategy, ArrayLayout.of(arrays(START)))


@pytest.mark.parametrize("side", ["ServerSide", "ClientSide"])
@pytest.mark.parametrize("kind", ["Fixed", "Adaptive"])
def test_flowers_own_noise_is_refused(tmp_path: Path, side: str, kind: str) -> None:
    fed, inner = five(tmp_path)
    wrapper = getattr(strategies, f"DifferentialPrivacy{side}{kind}Clipping")
    options = {"clipping_norm": 1.0} if kind == "Fixed" else {}
    wrapped = wrapper(make("FedAvg"), noise_multiplier=0.1, num_sampled_clients=5, **options)
    with fed.server() as server, pytest.raises(ConfigError, match="this ledger would not know of it"):
        SecureGrid(inner, server, wrapped, ArrayLayout.of(arrays(START)))


def test_a_strategy_of_ones_own(tmp_path: Path) -> None:
    fed, inner = five(tmp_path)

    class Mine(strategies.FedAvg):
        pass

    class Other:
        pass

    layout = ArrayLayout.of(arrays(START))
    with fed.server() as server:
        SecureGrid(inner, server, Mine(), layout)
        with pytest.raises(ConfigError, match="Other is not known to work on a mean"):
            SecureGrid(inner, server, Other(), layout)


@pytest.mark.parametrize("step", range(5))
def test_one_of_five_lost_at_each_step(tmp_path: Path, step: int) -> None:
    fed, inner = five(tmp_path)
    seen: dict[int, int] = {}

    def lost(message: Message) -> bool:
        node = message.metadata.dst_node_id
        seen[node] = seen.get(node, -2) + 1  # the greeting comes first
        return node == 12 and seen[node] >= step

    inner.lost = lost
    found = secure_run(fed, inner, make("FedAvg", fraction_evaluate=0.0), rounds=1)
    staying = [0, 1, 3, 4] if step <= 2 else [0, 1, 2, 3, 4]
    plain = LoopGrid({10 + client: client_app(client, []) for client in staying})
    expected = make("FedAvg", fraction_evaluate=0.0, min_train_nodes=len(staying), min_available_nodes=4).start(
        grid=plain, initial_arrays=arrays(START), num_rounds=1
    )
    np.testing.assert_allclose(flat(found.arrays), flat(expected.arrays), atol=1e-6)


def test_too_few_survivors_keep_the_model(tmp_path: Path) -> None:
    fed, inner = five(tmp_path)
    inner.lost = lambda message: message.metadata.dst_node_id > 11
    with fed.server(metrics=("train_loss",)) as server:
        strategy = make("FedAdam", fraction_evaluate=0.0)
        grid = SecureGrid(inner, server, strategy, ArrayLayout.of(arrays(START)), poll=0.001, step_timeout=0.02)
        strategy.start(grid=grid, initial_arrays=grid.arrays, num_rounds=2)
        assert [report.status for report in server.reports] == ["skipped"] * 2
        np.testing.assert_array_equal(server.model, START)
        assert grid.rounds_left == 1


def test_a_plain_message_gets_one_fixed_error_and_calls_nothing(tmp_path: Path) -> None:
    fed, inner = five(tmp_path)
    content = RecordDict({"arrays": arrays(START), "config": ConfigRecord({"server-round": 1})})
    for kind in ("train", "evaluate"):
        asked = [Message(content=content, message_type=kind, dst_node_id=node) for node in inner.apps]
        replies = list(inner.send_and_receive(asked))
        assert len(replies) == 5
        assert {reply.error.reason for reply in replies} == {
            "this node answers frames of a secure sum only; its own log states the reason"
        }
    assert not any(site.entered for site in fed.sites.values())


def test_arrays_that_a_carrier_adds_next_to_a_frame_are_never_trained_on(tmp_path: Path) -> None:
    """The frame names the hash of its model. Whoever carries messages could once put arrays in the model's place."""
    fed, inner = five(tmp_path)
    trained: list[np.ndarray] = []
    app = ClientApp()

    @app.train(mods=secured(fed.sites[2]))
    def train(message: Message, context: Any) -> Message:
        trained.append(flat(message.content["arrays"]))
        return Message(message.content, reply_to=message)

    inner.apps[12] = app

    def add(message: Message) -> bool:
        if message.metadata.dst_node_id == 12:
            message.content["arrays"] = arrays(START + 1000)
        return False

    inner.lost = add
    with fed.server(metrics=("train_loss",)) as server:
        strategy = make("FedAvg", fraction_evaluate=0.0, min_train_nodes=5)
        grid = SecureGrid(inner, server, strategy, ArrayLayout.of(arrays(START)), poll=0.001, step_timeout=0.02)
        strategy.start(grid=grid, initial_arrays=grid.arrays, num_rounds=1)
        assert server.reports[-1].survivors == 4
    assert not trained


def test_a_failing_train_function_drops_out_without_a_word(tmp_path: Path) -> None:
    fed, inner = five(tmp_path)
    app, mods = client_app(2, secured(fed.sites[2])), secured(fed.sites[2])
    app._registered_funcs.clear()

    @app.train(mods=mods)
    def train(message: Message, context: Any) -> Message:
        raise ValueError("the patient of row 17 is 93 years old")

    inner.apps[12] = app
    replies: list[Message] = []
    inner.change = lambda reply: replies.append(reply) or reply  # type: ignore[func-returns-value]
    secure_run(fed, inner, make("FedAvg", fraction_evaluate=0.0), rounds=1)
    assert RunFolder(tmp_path / "run").reports()[0].dropouts == (2,)
    assert not any(b"93 years" in str(reply.__dict__).encode() for reply in replies)


def test_replies_in_the_clear_are_not_taken(tmp_path: Path) -> None:
    fed, inner = five(tmp_path)

    def change(reply: Message) -> Message:
        if reply.metadata.src_node_id == 12:
            reply.content["arrays"] = arrays(START)
        return reply

    inner.change = change
    secure_run(fed, inner, make("FedAvg", fraction_evaluate=0.0), rounds=1)
    assert RunFolder(tmp_path / "run").reports()[0].dropouts == (2,)


def test_messages_that_would_bring_clear_replies_are_refused(tmp_path: Path) -> None:
    fed, inner = five(tmp_path)
    with fed.server() as server:
        grid = SecureGrid(inner, server, make("FedAvg"), ArrayLayout.of(arrays(START)))
        with pytest.raises(ConfigError, match="in the clear"):
            grid.push_messages([])
        with pytest.raises(ConfigError, match="in the clear"):
            grid.pull_messages([])
        query = Message(content=RecordDict(), message_type="query", dst_node_id=10)
        with pytest.raises(ConfigError, match="'query'"):
            grid.send_and_receive([query])
        two = [
            Message(
                content=RecordDict({"arrays": arrays(START + node), "config": ConfigRecord()}),
                message_type="train",
                dst_node_id=10 + node,
            )
            for node in (0, 1)
        ]
        with pytest.raises(ConfigError, match="one model for all"):
            grid.send_and_receive(two)
        assert grid.send_and_receive([]) == []


def test_a_second_start_resumes_the_folder(tmp_path: Path) -> None:
    fed, inner = five(tmp_path)
    first = secure_run(fed, inner, make("FedAvg"), rounds=1)
    with fed.server(metrics=("train_loss",), evaluation=("eval_loss",)) as server:
        strategy = make("FedAvg")
        grid = SecureGrid(inner, server, strategy, ArrayLayout.of(arrays(START)), poll=0.001)
        np.testing.assert_array_equal(flat(grid.arrays), flat(first.arrays))
        strategy.start(grid=grid, initial_arrays=grid.arrays, num_rounds=grid.rounds_left)
        assert server.round == 3


def test_private_rounds_keep_a_ledger_and_refuse_evaluation(tmp_path: Path) -> None:
    fed, inner = five(tmp_path, **PRIVATE)
    with fed.server(metrics=()) as server:
        strategy = make("FedAvg", fraction_evaluate=0.0)
        grid = SecureGrid(inner, server, strategy, ArrayLayout.of(arrays(START)), poll=0.001)
        strategy.start(grid=grid, initial_arrays=grid.arrays, num_rounds=3)
    assert [release.round for release in RunFolder(tmp_path / "run").ledger.releases] == [1, 2, 3]
    assert 0 < RunFolder(tmp_path / "run").epsilon().epsilon < 1000
    with pytest.raises(ConfigError, match="without noise"), fed.server(evaluation=("eval_loss",)):
        pass


def test_a_cohort_that_the_server_samples_from_a_secret_is_asked_alone(tmp_path: Path) -> None:
    """Amplification is claimed for this sampling, and never for the choice of nodes by Flower."""
    sampled = {"privacy.adjacency": "add_remove", "cohort.sampling": "poisson", "cohort.probability": 0.8}
    fed, inner = five(tmp_path, **PRIVATE | sampled | {"cohort.min_survivor_fraction": 0.5})
    with fed.server(metrics=()) as server:
        strategy = make("FedAvg", fraction_evaluate=0.0)
        grid = SecureGrid(inner, server, strategy, ArrayLayout.of(arrays(START)), poll=0.001, step_timeout=0.05)
        strategy.start(grid=grid, initial_arrays=grid.arrays, num_rounds=3)
    run = RunFolder(tmp_path / "run")
    for report in run.reports():
        asked = [
            client for client, site in fed.sites.items() if any(round == report.round for round, _ in site.entered)
        ]
        assert report.status == ("trained" if report.cohort >= 3 else "skipped")  # a sum needs three
        assert len(asked) == (report.cohort if report.cohort >= 3 else 0)
    ledger = run.ledger
    assert ledger is not None
    assert all("Poisson" in type(release.sampling).__name__ for release in ledger.releases)


def test_a_spent_budget_ends_the_run_with_the_last_paid_model(tmp_path: Path) -> None:
    settings = {**PRIVATE, "privacy.epsilon": 9.0, "privacy.delta": 1e-3, "privacy.noise_multiplier": 1.0, "rounds": 50}
    fed, inner = five(tmp_path, **settings)
    with fed.server(metrics=()) as server:
        strategy = make("FedAvg", fraction_evaluate=0.0)
        grid = SecureGrid(inner, server, strategy, ArrayLayout.of(arrays(START)), poll=0.001)
        with pytest.raises(BudgetExceeded):
            strategy.start(grid=grid, initial_arrays=grid.arrays, num_rounds=50)
        assert 0 < server.round < 50
        np.testing.assert_array_equal(RunFolder(tmp_path / "run").store.latest().model, server.model)


def test_a_relay_in_front_of_agents_gives_the_same_mean(tmp_path: Path) -> None:
    fed, _ = five(tmp_path)

    def relaying(client: int) -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Any) -> Message:
            return relay(message, fed.sites[client], client)

        return app

    inner = LoopGrid({10 + client: relaying(client) for client in range(5)})
    secure_run(fed, inner, make("FedAvg", fraction_evaluate=0.0), rounds=2)
    assert [report.survivors for report in RunFolder(tmp_path / "run").reports()] == [5, 5]
    inner.apps[12] = relaying(3)  # it states another site than its own
    with fed.server(metrics=("train_loss",), evaluation=("eval_loss",)) as server:
        strategy = make("FedAvg", fraction_evaluate=0.0)
        grid = SecureGrid(inner, server, strategy, ArrayLayout.of(arrays(START)), poll=0.001, step_timeout=0.05)
        strategy.start(grid=grid, initial_arrays=grid.arrays, num_rounds=1)
        assert server.reports[-1].dropouts == (2,)


def test_a_relay_without_its_agent_replies_with_one_fixed_error(tmp_path: Path) -> None:
    class Gone:
        def answer(self, frame: bytes, model: bytes) -> bytes:
            raise ConnectionRefusedError("/home/site/agent.sock")

    content = RecordDict({"privfl": ConfigRecord({"frame": b"x"})})
    message = Message(content=content, message_type="train", dst_node_id=10)
    assert relay(message, Gone(), 0).error.reason == "the site did not answer"


def test_layouts_are_exact_and_strict() -> None:
    record = arrays(START)
    layout = ArrayLayout.of(record)
    assert ArrayLayout.from_text(layout.to_text()) == layout
    np.testing.assert_array_equal(flat(layout.arrays(layout.flatten(record))), flat(record))
    assert len(layout.digest()) == 64
    from flwr.app import Array

    with pytest.raises(ConfigError, match="'n' is int64"):
        ArrayLayout.of(ArrayRecord({"w": Array(np.zeros(2, np.float32)), "n": Array(np.zeros(1, np.int64))}))
    with pytest.raises(ConfigError, match="other names"):
        layout.flatten(ArrayRecord({"weights": Array(np.zeros((2, 2), np.float32))}))
    turned = ArrayRecord({"weights": Array(np.zeros(4, np.float32)), "bias": Array(np.zeros(2, np.float32))})
    with pytest.raises(ConfigError, match="shape"):
        layout.flatten(turned)
    for text in ("{}", layout.to_text() + " ", layout.to_text().replace("float32", "float16"), "x"):
        with pytest.raises(ValueError, match="layout"):
            ArrayLayout.from_text(text)
