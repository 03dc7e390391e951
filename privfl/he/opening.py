"""The checks that an opener makes before it opens a sum, and the values that it releases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from privfl.crypto import KeyDirectory
from privfl.errors import CapacityError, RemoteProtocolError
from privfl.he.authenticator import SessionCipher
from privfl.he.checks import check_headers, check_votes
from privfl.he.keys import KeyedEntropy
from privfl.he.messages import AskOpener, FrameHeader, transcript
from privfl.he.packing import Residues, unpack
from privfl.he.plan import MAX_DEVIATIONS, CkksPlan
from privfl.ring import Ints
from privfl.sums import Opening, SumTask
from privfl.sums.base import KeyedOpening
from privfl.wire import ClientId


def open_sum(
    task: SumTask,
    plan: CkksPlan,
    directory: KeyDirectory,
    request: AskOpener,
    *,
    digest: bytes,
    quorum: int,
    survivors: tuple[ClientId, ...],
    own: FrameHeader,
    session_key: bytes,
    cipher: SessionCipher,
    opening: Opening,
) -> tuple[bytes, bytes]:
    """Open one sum, after every check of SPEC.md, section 7.

    Args:
        task: The sum.
        plan: Its CKKS parameters.
        directory: The clients' signing keys.
        request: The server's request, which is untrusted.
        digest: The task's digest, 32 bytes.
        quorum: Clients that must have signed the survivor list.
        survivors: The one survivor list that this opener signed.
        own: The header that this opener sent.
        session_key: 32 secret bytes.
        cipher: Made from the session key.
        opening: Runs on the exact sum.

    Returns:
        The released sum as words of the task's ring, and the transcript.

    Raises:
        RemoteProtocolError: A check fails.
        TooFewSurvivors: Fewer than a quorum signed the list.
        CapacityError: The opened sum leaves the ring.
    """
    check_headers(plan, directory, request.headers, digest=digest, survivors=survivors, own=own)
    check_votes(directory, request, digest=digest, key=own.key, survivors=survivors, quorum=quorum)
    block = unpack(request.block, plan)
    if cipher.tagger.block(block) != cipher.tagger.total((header.client, header.tag) for header in request.headers):
        raise RemoteProtocolError("the summed block is not the sum of the signed frames")
    total = round_sum(task, plan, block, request.headers, cipher)
    record = transcript(digest, request.headers)
    if isinstance(opening, KeyedOpening):
        opening = opening.make(KeyedEntropy(session_key, record))
    released = opening(total, frozenset(survivors))
    low, high = int(released.min()), int(released.max())
    if low < -task.ring.half or high >= task.ring.half:
        found = low if low < -task.ring.half else high
        raise CapacityError(f"the opened sum reaches {found}, beyond a ring of {task.ring.bits} bits")
    return task.ring.pack(task.ring.reduce(released)), record


def round_sum(
    task: SumTask, plan: CkksPlan, block: Residues, headers: tuple[FrameHeader, ...], cipher: SessionCipher
) -> Ints:
    """Decrypt, round and check a sum.

    Args:
        task: The sum.
        plan: Its CKKS parameters.
        block: Summed c0 residues, uint64 `[chunks * degree]`.
        headers: The header of each survivor.
        cipher: Made from the session key.

    Returns:
        The exact sum, int64 `[length]`.

    Raises:
        RemoteProtocolError: No honest frames add up to these slots.
    """
    total = decrypt_sum(plan, block, [header.seeds for header in headers], cipher)
    assert isinstance(total, np.ndarray)  # noqa: S101 - the safe form was asked for
    if total[task.length :].any() or max(int(total.max()), -int(total.min())) > task.limit(len(headers)):
        raise RemoteProtocolError("a slot holds more than the clients' bounds allow: not an honest sum")
    return total[: task.length]


@dataclass(frozen=True, slots=True)
class ApproximateSum:
    """The decrypted values before rounding, for holders of the session key only.

    The rounding errors are a linear function of the secret key. Publish one such vector, with DP noise in its inputs or
    without, and everybody can compute the key (Li and Micciancio 2021, section 3).

    Attributes:
        values: float64 `[chunks * degree]`.
        key_holder_only: A reminder, always True.
    """

    values: npt.NDArray[np.float64] = field(repr=False)
    key_holder_only: Literal[True] = True


def decrypt_sum(
    plan: CkksPlan,
    block: Residues,
    seeds: Sequence[bytes | memoryview],
    cipher: SessionCipher,
    *,
    unsafe_approximate: bool = False,
) -> Ints | ApproximateSum:
    """Decrypt and round a sum.

    Args:
        plan: The parameters of the sum.
        block: Summed c0 residues, uint64 `[chunks * degree]`.
        seeds: The seeds of each summand.
        cipher: Made from the session key.
        unsafe_approximate: Return the values before rounding, for experiments; no sum ever asks for them.

    Returns:
        The exact integers, int64 `[chunks * degree]`.

    Raises:
        RemoteProtocolError: A slot is more than 10 standard deviations off an integer.
    """
    if unsafe_approximate:
        parts = cipher.ckks.decrypt(block, seeds)
        return ApproximateSum(np.concatenate([values.reshape(-1) for values in parts]))
    limit = MAX_DEVIATIONS * plan.error_stddev(len(seeds))
    total, worst = cipher.open(block, seeds, limit=limit)
    if not worst <= limit:
        raise RemoteProtocolError(
            f"a slot is {worst:.3g} off an integer, and {limit:.3g} is allowed: not an honest sum"
        )
    return total
