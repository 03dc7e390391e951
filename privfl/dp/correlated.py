"""The opener's noise where it is correlated across rounds: its secret, and which sum it was added to in each round.

Noise of one round that is added to two sums would reveal their difference. The opener therefore keeps a file. Before
it samples the noise of a round it notes, durably, a keyed digest of the sum. After a crash the same noise is made again
for the same sum, and for no other.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from privfl.crypto.kdf import KEY_BYTES, derive, framed
from privfl.crypto.keystream import read_keystream
from privfl.dp.mechanism import RoundNoise
from privfl.dp.noise.sampler import Entropy
from privfl.dp.noise.toeplitz import Streams, ToeplitzNoise
from privfl.errors import ConfigError, LocalProtocolError, OpenedBefore, StateError
from privfl.files import HashChain
from privfl.ring import Ints, Opening
from privfl.wire import ClientId

_HEADER: Final = "toeplitz"
_SIMULATED: Final = b"privfl/1 simulated correlated noise"


def streams_of(secret: bytes) -> Streams:
    """The streams of fresh noise behind a secret: AES in counter mode, one key for each use.

    Args:
        secret: 32 bytes; of full entropy, and known to the opener only, where the noise is to protect anybody.
    """

    def stream(*use: int) -> Entropy:
        return read_keystream(derive(secret, "correlated noise", *(part.to_bytes(8, "little") for part in use)))

    return stream


def simulated_secret(*key: int) -> bytes:
    """The secret of a simulation, which is none: 32 bytes that follow from non-negative integers such as a seed."""
    return hashlib.sha256(_SIMULATED + framed(*(str(part).encode() for part in key))).digest()


class CorrelatedNoise:
    """Correlated noise at the party that opens the sums of a run, in every round the same party.

    Args:
        path: The file of the secret and the notes, readable by its owner only. It is made at the first opening. None
            keeps both in memory, for tests.
        key: Non-negative integers such as (seed,) for simulation noise; None takes a secret from the operating system.

    Raises:
        StateError: The file was altered, or is of another kind of noise.
    """

    def __init__(self, path: Path | None = None, *, key: tuple[int, ...] | None = None) -> None:
        self._chain = None if path is None else HashChain(path)
        self._key, self._header, self._secret = key, dict[str, Any](), b""
        self._opened: dict[int, str] = {}
        self._noise: ToeplitzNoise | None = None
        for number, record in enumerate(() if self._chain is None else self._chain.records):
            try:
                self._read(number, record)
            except (KeyError, TypeError, ValueError) as error:
                raise StateError(f"{path} does not hold the noise of a run: put it back, or start a new run") from error

    @property
    def rounds(self) -> frozenset[int]:
        """The rounds whose noise was added to a sum, or was about to be."""
        return frozenset(self._opened)

    def opening(self, noise: RoundNoise, round: int) -> Opening:
        """The noise that is added where the sum of a round is opened.

        Args:
            noise: The noise of the round, with the same standard deviation and length in every round.
            round: The round, from 1.

        Raises:
            ConfigError: The mechanism is not of correlated noise, or its source is not the one of this noise.
        """
        if noise.mechanism.correlation != "toeplitz":
            raise ConfigError("this noise is correlated across rounds, and the mechanism asks for independent noise")
        if (noise.mechanism.source == "secure") != (self._key is None):
            raise ConfigError(
                f"the mechanism asks for {noise.mechanism.source} noise: secure noise takes no key, and simulation "
                "noise takes one"
            )
        return _RoundOpening(self, noise, round)

    def _read(self, number: int, record: dict[str, Any]) -> None:
        if (number == 0) != (record["type"] == _HEADER):
            raise ValueError("the header stands in the first line and nowhere else")
        if number:
            self._opened[int(record["round"])] = str(record["digest"])
            return
        self._header = record
        if (record["secret"] is None) != (self._key is not None):
            raise ValueError("secure and simulation noise are not mixed")
        self._secret = simulated_secret(*self._key) if self._key is not None else bytes.fromhex(record["secret"])
        if len(self._secret) != KEY_BYTES:
            raise ValueError("a secret has 32 bytes")
        self._noise = ToeplitzNoise(int(record["length"]), streams_of(self._secret))

    def _append(self, record: dict[str, Any]) -> None:
        if self._chain is not None:
            self._chain.append(record)
        self._read(len(self._opened) + 1 if self._header else 0, record)

    def _add(self, noise: RoundNoise, round: int, total: Ints, survivors: frozenset[ClientId]) -> Ints:
        terms = {"type": _HEADER, "length": noise.length, "stddev": noise.noise_stddev}
        if not self._header:
            secret = None if self._key is not None else os.urandom(KEY_BYTES).hex()
            self._append(terms | {"secret": secret})
        if any(self._header[name] != value for name, value in terms.items()):
            raise StateError(
                f"the noise of this run has {self._header['length']} entries of stddev {self._header['stddev']:g}, and "
                f"round {round} asks for {noise.length} of {noise.noise_stddev:g}: start a new run for other noise"
            )
        names = b"".join(client.to_bytes(4, "little") for client in sorted(survivors))
        content = total.astype("<i8").tobytes()
        digest = derive(self._secret, "opened sum", round.to_bytes(8, "little"), names, content).hex()
        if self._opened.get(round, digest) != digest:
            raise OpenedBefore(
                f"round {round} was opened before over other contributions, and its noise is added to one sum only: "
                "the round is skipped"
            )
        if round not in self._opened:
            self._append({"type": "opened", "round": round, "digest": digest})
        made = self._noise
        if made is None:
            raise AssertionError
        noisy: Ints = total + made.sample(noise.noise_stddev, round)
        return noisy


@dataclass(slots=True)
class _RoundOpening:
    source: CorrelatedNoise = field(repr=False)
    noise: RoundNoise
    round: int
    used: bool = False

    def __call__(self, total: Ints, survivors: frozenset[ClientId]) -> Ints:
        if self.used:
            raise LocalProtocolError("this sum was opened before; ask for its noise once in a round")
        self.used = True
        self.noise.check_length(total)
        return self.source._add(self.noise, self.round, total, survivors)


def opening_of(correlated: CorrelatedNoise | None, noise: RoundNoise, round: int) -> Opening:
    """The opening of a round with correlated noise; raises `ConfigError` where nobody gave its state.

    Args:
        correlated: The noise of the run.
        noise: The noise of the round.
        round: The round, from 1.
    """
    if correlated is None:
        raise ConfigError("noise that is correlated across rounds has a state: give the opener a `noise`")
    return correlated.opening(noise, round)
