"""The opener's correlated noise: one secret, one sum for each round, and the same noise again after a crash."""

from pathlib import Path

import numpy as np
import pytest

from privfl.dp import CorrelatedNoise, Mechanism, RoundNoise, Slot
from privfl.errors import ConfigError, LocalProtocolError, OpenedBefore, StateError

SLOTS = (Slot("update", 50, 1000.0, 1.0),)
EVERYBODY = frozenset({1, 4})


def round_noise(z: float = 2.0, *, length: int = 50, **mechanism: object) -> RoundNoise:
    correlated = {"correlation": "toeplitz", **mechanism}
    return RoundNoise(Mechanism("central", z, **correlated), (Slot("update", length, 1000.0, 1.0),), 4)


def opened(noise: CorrelatedNoise, round: int, value: int = 7, survivors: frozenset[int] = EVERYBODY) -> np.ndarray:
    return noise.opening(round_noise(), round)(np.full(50, value, np.int64), survivors)


def test_a_restart_makes_the_same_noise_for_the_same_sum(tmp_path: Path) -> None:
    path = tmp_path / "noise.jsonl"
    first = CorrelatedNoise(path)
    assert not path.exists()
    released = {r: opened(first, r) for r in (1, 2, 5)}
    again = CorrelatedNoise(path)
    assert again.rounds == {1, 2, 5}
    for r in (5, 1, 2):
        np.testing.assert_array_equal(opened(again, r), released[r])
    assert not np.array_equal(opened(again, 6), released[5])
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("value", "survivors"), [(8, EVERYBODY), (7, frozenset({1})), (7, frozenset({1, 5}))])
def test_another_sum_never_gets_the_noise_of_a_round(tmp_path: Path, value: int, survivors: frozenset[int]) -> None:
    path = tmp_path / "noise.jsonl"
    opened(CorrelatedNoise(path), 3)
    before = path.read_bytes()
    with pytest.raises(OpenedBefore, match="round 3 was opened before over other contributions"):
        opened(CorrelatedNoise(path), 3, value, survivors)
    assert path.read_bytes() == before


def test_the_note_is_on_the_disk_before_the_noise_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("privfl.dp.noise.toeplitz.ToeplitzNoise.sample", killed)
    with pytest.raises(KeyboardInterrupt):
        opened(CorrelatedNoise(tmp_path / "noise.jsonl"), 1)
    monkeypatch.undo()
    again = CorrelatedNoise(tmp_path / "noise.jsonl")
    assert again.rounds == {1}
    with pytest.raises(OpenedBefore):
        opened(again, 1, 9)
    opened(again, 1)


def test_a_note_that_was_cut_short_never_happened(tmp_path: Path) -> None:
    path = tmp_path / "noise.jsonl"
    noise = CorrelatedNoise(path)
    opened(noise, 1)
    opened(noise, 2)
    path.write_bytes(path.read_bytes()[:-20])
    again = CorrelatedNoise(path)
    assert again.rounds == {1}
    opened(again, 2, 9)


def test_every_run_has_a_secret_of_its_own_and_simulations_repeat() -> None:
    assert not np.array_equal(opened(CorrelatedNoise(), 1), opened(CorrelatedNoise(), 1))
    total = np.zeros(50, np.int64)
    seeded = round_noise(source="simulation")
    one, other, third = (CorrelatedNoise(key=key).opening(seeded, 2)(total, EVERYBODY) for key in ((5,), (5,), (6,)))
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, third)


def test_the_file_does_not_hold_the_sum_in_the_open(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    for path in (one, other):
        opened(CorrelatedNoise(path), 1)
    digests = [path.read_text().split('"digest":"')[1][:64] for path in (one, other)]
    assert digests[0] != digests[1]  # keyed: equal sums of two runs give different notes


def test_the_noise_of_a_run_has_one_size(tmp_path: Path) -> None:
    noise = CorrelatedNoise(tmp_path / "noise.jsonl")
    opened(noise, 1)
    for other in (round_noise(3.0), round_noise(2.0, length=51)):
        with pytest.raises(StateError, match="start a new run for other noise"):
            noise.opening(other, 2)(np.zeros(other.length, np.int64), EVERYBODY)
    assert noise.rounds == {1}


def test_one_opening_is_used_once() -> None:
    opening = CorrelatedNoise().opening(round_noise(), 1)
    opening(np.zeros(50, np.int64), EVERYBODY)
    with pytest.raises(LocalProtocolError, match="opened before"):
        opening(np.zeros(50, np.int64), EVERYBODY)
    with pytest.raises(ConfigError, match="50 entries"):
        CorrelatedNoise().opening(round_noise(), 1)(np.zeros(49, np.int64), EVERYBODY)


def test_noise_of_another_kind() -> None:
    with pytest.raises(ConfigError, match="asks for independent noise"):
        CorrelatedNoise().opening(round_noise(correlation="none"), 1)
    with pytest.raises(ConfigError, match="simulation noise takes one"):
        CorrelatedNoise().opening(round_noise(source="simulation"), 1)
    with pytest.raises(ConfigError, match="asks for secure noise"):
        CorrelatedNoise(key=(1,)).opening(round_noise(), 1)
    with pytest.raises(ConfigError, match="correlated noise has a state"):
        round_noise().opening()
    for bad in ({"placement": "local"}, {"placement": "distributed"}, {"placement": "mesh"}, {"placement": "none"}):
        with pytest.raises(ConfigError, match="toeplitz"):
            Mechanism(**{"noise_multiplier": float(bad["placement"] != "none"), "correlation": "toeplitz", **bad})
    with pytest.raises(ConfigError, match="toeplitz"):
        Mechanism("central", 1.0, discrete=True, correlation="toeplitz")
    with pytest.raises(ConfigError, match="correlation"):
        Mechanism("central", 1.0, correlation="banded")  # type: ignore[arg-type]


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("alter", ["line removed", "secret altered", "header gone"])
def test_an_altered_file_is_refused(tmp_path: Path, alter: str) -> None:
    path = tmp_path / "noise.jsonl"
    noise = CorrelatedNoise(path)
    for r in (1, 2, 3):
        opened(noise, r)
    lines = _lines(path)
    if alter == "line removed":
        lines = [lines[0], *lines[2:]]
    elif alter == "header gone":
        lines = lines[1:]
    else:
        secret = lines[0].split(b'"secret":"')[1][:8]
        lines[0] = lines[0].replace(secret, secret[::-1])
    path.write_bytes(b"".join(lines))
    with pytest.raises(StateError):
        CorrelatedNoise(path)


def test_secure_and_simulation_noise_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "noise.jsonl"
    opened(CorrelatedNoise(path), 1)
    with pytest.raises(StateError, match="does not hold the noise of a run"):
        CorrelatedNoise(path, key=(1,))
