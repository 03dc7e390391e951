"""What an opener checks before it opens a sum, and what it lets out of its hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from privfl.crypto import KeyDirectory
from privfl.errors import CapacityError, RemoteProtocolError
from privfl.he.checks import check_headers, check_votes
from privfl.he.keys import KeyedEntropy
from privfl.he.messages import AskOpener, FrameHeader, transcript
from privfl.he.packing import Residues, unpack
from privfl.he.plan import REFUSE_DEVIATIONS, CkksPlan
from privfl.he.work import KeyedWork
from privfl.ring import Ints
from privfl.sums import KeyedOpening, Opening, SumTask
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
    work: KeyedWork,
    opening: Opening,
) -> tuple[bytes, bytes]:
    """(released sum as words of the task's ring, transcript), after every check of SPEC.md, section 7.

    `survivors` is the one list that this opener itself signed, `own` the header that it sent. Raises
    `RemoteProtocolError`, or `TooFewSurvivors` below the quorum; `CapacityError` if the opening leaves the ring.
    """
    check_headers(plan, directory, request.headers, digest=digest, survivors=survivors, own=own)
    check_votes(directory, request, digest=digest, key=own.key, survivors=survivors, quorum=quorum)
    block = unpack(request.block, plan)
    if work.tagger.block(block) != work.tagger.total((header.client, header.tag) for header in request.headers):
        raise RemoteProtocolError("the summed block is not the sum of the signed frames")
    total = round_sum(task, plan, block, request.headers, work)
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
    task: SumTask, plan: CkksPlan, block: Residues, headers: tuple[FrameHeader, ...], work: KeyedWork
) -> Ints:
    """The exact sum, int64 `[length]`; refuses slots that no honest frames add up to."""
    total = decrypt_sum(plan, block, [header.seeds for header in headers], work)
    assert isinstance(total, np.ndarray)  # noqa: S101 - the safe form was asked for
    if total[task.length :].any() or max(int(total.max()), -int(total.min())) > len(headers) * task.bound:
        raise RemoteProtocolError("a slot holds more than the clients' bounds allow: not an honest sum")
    return total[: task.length]


@dataclass(frozen=True, slots=True)
class ApproximateSum:
    """What decryption gave before rounding, float64 `[chunks * degree]`: for holders of the session key only.

    The rounding errors in `values` are a linear function of the secret key: publish one such vector, with DP noise in
    its inputs or without, and everybody can compute the key (Li and Micciancio 2021, section 3).
    """

    values: npt.NDArray[np.float64] = field(repr=False)
    key_holder_only: Literal[True] = True


def decrypt_sum(
    plan: CkksPlan,
    block: Residues,
    seeds: Sequence[bytes | memoryview],
    work: KeyedWork,
    *,
    unsafe_approximate: bool = False,
) -> Ints | ApproximateSum:
    """Summed c0 residues and each summand's seeds -> the exact integers, int64 `[chunks * degree]`.

    Raises `RemoteProtocolError` when a slot is more than 10 deviations off an integer. `unsafe_approximate` gives the
    values before rounding instead, for experiments; no sum ever asks for them.
    """
    if unsafe_approximate:
        parts = work.cipher.decrypt(block, seeds)
        return ApproximateSum(np.concatenate([values.reshape(-1) for values in parts]))
    limit = REFUSE_DEVIATIONS * plan.noise_stddev(len(seeds))
    total, worst = work.open(block, seeds, limit=limit)
    if not worst <= limit:
        raise RemoteProtocolError(
            f"a slot is {worst:.3g} off an integer, and {limit:.3g} is allowed: not an honest sum"
        )
    return total
