"""Runs whose clients have lasting credentials, and so remember every task: kills, restarts, and a second run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from privfl.crypto import Credentials, MemoryDirectory, load_credentials, save_credentials
from privfl.data import Dataset
from privfl.dp import Ledger
from privfl.dp.unit import CLIENT_UNIT
from privfl.experiment import Experiment, Result
from privfl.he import CkksSum
from privfl.secagg import MaskedSum

CLIENTS = 5
SUMS = {"masked": MaskedSum, "ckks": CkksSum}
NOISE = {"privacy.placement": "central", "privacy.clip_norm": 1.0, "privacy.noise_multiplier": 2.0}
DISTRIBUTED = NOISE | {"privacy.placement": "distributed"}
WAYS: dict[str, dict[str, Any]] = {
    "no noise": {},
    "standardized through the sum": {"data.standardize": "exact"},
    "measured through the sum": {"data.test": "local", "data.test_fraction": 0.2},
    "secure noise": NOISE,
    "seeded noise": NOISE | {"privacy.noise": "simulation"},
    "seeded noise shares": DISTRIBUTED | {"privacy.noise": "simulation"},
    "retries": {"cohort.too_few": "retry"},
}
SAME_MODEL = set(WAYS) - {"secure noise"}
"""Whatever is not noise from the operating system is the same, however often a run was killed."""


class Killed(BaseException):
    """The process dies here."""


class Federation:
    """Clients whose credentials are files: whoever reads them again has the clients' memory of tasks."""

    def __init__(self, folder: Path, scheme: str) -> None:
        self.folder, self.scheme = folder, scheme
        for client in range(CLIENTS):
            save_credentials(folder / f"{client}.json", Credentials.generate(client))

    def start(self, name: str, settings: Mapping[str, Any], kill_after: int | None = None) -> Result:
        """Start or resume the run in what stands for a process of its own; it dies after so many messages."""
        own = {client: load_credentials(self.folder / f"{client}.json") for client in range(CLIENTS)}
        directory = MemoryDirectory({client: keys.signing.public for client, keys in own.items()})
        seen = 0

        def tap(direction: Literal["up", "down"], client: int, message: bytes) -> None:
            nonlocal seen
            seen += 1
            if seen == kill_after:
                raise Killed

        rng = np.random.default_rng(4)
        features = rng.normal(size=(200, 4)).astype(np.float32)
        data = Dataset("points", "binary", features, (features[:, 0] > 0).astype(np.int64), classes=("a", "b"))
        common = {"name": name, "rounds": 3, "data.clients": CLIENTS, "client.steps": 3, "client.batch_size": 5}
        return Experiment(
            data=data,
            sum=SUMS[self.scheme](directory),
            credentials=own,
            tap=tap,
            runs=self.folder / "runs",
            overrides=common | dict(settings),
        ).run(resume=True)


def statuses(result: Result) -> list[str]:
    return [report.status for report in result]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", SUMS)
def test_a_run_goes_on_after_every_crash(tmp_path: Path, scheme: str, way: str) -> None:
    clients = Federation(tmp_path, scheme)
    whole = clients.start("whole", WAYS[way])
    for messages in (3, 14, 27, 31):  # each in the first sum of that start
        with pytest.raises(Killed):
            clients.start("killed", WAYS[way], kill_after=messages)
    result = clients.start("killed", WAYS[way])
    assert statuses(result) == statuses(whole) == ["trained"] * 3
    assert [report.survivors for report in result] == [CLIENTS] * 3
    if way in SAME_MODEL:
        np.testing.assert_array_equal(result.model, whole.model)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", SUMS)
def test_a_second_run_from_the_same_first_model_trains(tmp_path: Path, scheme: str, way: str) -> None:
    clients = Federation(tmp_path, scheme)
    results = [clients.start(name, WAYS[way]) for name in ("first", "second", "third")]
    for result in results:
        assert statuses(result) == ["trained"] * 3
    if way in SAME_MODEL:
        np.testing.assert_array_equal(results[0].model, results[2].model)


@pytest.mark.parametrize("source", ["secure", "simulation"])
def test_each_attempt_is_charged_under_the_number_that_the_clients_saw(tmp_path: Path, source: str) -> None:
    clients, way = Federation(tmp_path, "masked"), NOISE | {"privacy.noise": source}
    for messages in (31, 31):
        with pytest.raises(Killed):
            clients.start("run", way, kill_after=messages)
    result = clients.start("run", way)
    ledger = Ledger(CLIENT_UNIT, result.folder / "ledger.jsonl")
    assert [(r.round, r.attempt) for r in ledger.releases] == [(1, 0), (1, 1), (1, 2), (2, 0), (3, 0)]
    assert [(ledger.reserved(token).round, ledger.reserved(token).attempt) for token in ledger.unsettled] == [
        (1, 0),
        (1, 1),
    ]
    whole = clients.start("whole", way)
    assert result.epsilon is not None
    assert whole.epsilon is not None
    assert result.epsilon.epsilon > whole.epsilon.epsilon
