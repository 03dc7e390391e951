"""What a client does to the chunks of vectors under its session key: sealing and opening, shared among processes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from privfl.he.channel import Buffer
from privfl.he.keys import secret_polynomial
from privfl.he.packing import Residues, pack_into
from privfl.he.plan import SEED_BYTES, CkksPlan
from privfl.he.processes import Done, Job, Processes
from privfl.he.seal import SealCipher
from privfl.he.tags import Tag, Tagger
from privfl.ring import Ints

WORTH: Final = 12
"""Chunks of one client for each process, below which sharing costs more than it gains (benchmarks/ckks)."""


def worth_sharing(plan: CkksPlan, clients: int = 1) -> int:
    """Among how many processes it pays to share the sealing of a vector, or the opening of a sum of `clients`."""
    return max(1, min(plan.chunks * clients // WORTH, plan.chunks))


class KeyedWork:
    """Seals and opens vectors of one task under one session key. Holds secrets."""

    def __init__(self, plan: CkksPlan, session_key: bytes, task: bytes, processes: Processes | None = None) -> None:
        self._plan, self._processes = plan, processes
        self._secrets = session_key + task
        self.cipher = SealCipher(plan, secret_polynomial(session_key, plan))
        self.tagger = Tagger(plan, session_key, task)

    def __repr__(self) -> str:
        return f"KeyedWork({self.cipher!r})"

    def seal(self, vector: Ints) -> tuple[bytes, memoryview, Tag]:
        """int64 `[length]` -> (seeds, packed c0 block, its tag without a pad)."""
        values, degree = np.ascontiguousarray(vector), self._plan.degree
        jobs = [Job("seal", a, 0.0, values[a * degree : b * degree].data) for a, b in self._shares(1)]
        seeds, blocks, parts = zip(*self._do(jobs), strict=True)
        block = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        tag = self.tagger.whole(np.frombuffer(part, np.int64) for part in parts)
        return b"".join(seeds), memoryview(block), tag

    def open(self, total: Residues, seeds: Sequence[Buffer], *, limit: float) -> tuple[Ints, float]:
        """Summed c0 residues and every client's seeds -> (rounded, int64 `[chunks * degree]`; the worst rounding).

        Ends early, with rounded values missing, when one is farther than `limit` off an integer.
        """
        rows = total.reshape(self._plan.chunks, self._plan.degree)
        jobs = []
        for a, b in self._shares(len(seeds)):
            own = tuple(memoryview(some)[a * SEED_BYTES : b * SEED_BYTES] for some in seeds)
            jobs.append(Job("open", a, limit, rows[a:b].data, own))
        values, worst = zip(*self._do(jobs), strict=True)
        parts = [np.frombuffer(some, np.int64) for some in values]
        rounded = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return rounded, float(np.max([np.frombuffer(some) for some in worst]))

    def perform(self, job: Job) -> Done:
        """Do one job in this process."""
        if job.kind == "seal":
            return self._seal(np.frombuffer(job.data, np.int64), job.first)
        return self._open(np.frombuffer(job.data, np.uint64), job.seeds, job.limit)

    def _shares(self, clients: int) -> list[tuple[int, int]]:
        """First and last chunk of each process's share: equal ones, to within a chunk."""
        chunks = self._plan.chunks
        ready = 1 if self._processes is None else self._processes.ready
        count = min(ready, worth_sharing(self._plan, clients))
        return list(pairwise(chunks * part // count for part in range(count + 1)))

    def _do(self, jobs: Sequence[Job]) -> list[Done]:
        if self._processes is None or len(jobs) == 1:
            return [self.perform(job) for job in jobs]
        return self._processes.share(self._plan, self._secrets, jobs, self.perform)

    def _seal(self, values: Ints, first: int) -> Done:
        """Residues are packed and tagged while they are in the cache; nothing of 8 bytes a value is ever made."""
        size = self._plan.residue_bytes
        seeds, block, parts = [], bytearray(-(-len(values) // self._plan.degree) * self._plan.degree * size), []
        done = 0
        for rows, some in self.cipher.encrypt_parts(values):
            seeds.append(some)
            pack_into(block, done * self._plan.degree, rows.reshape(-1), size)
            parts.append(self.tagger.part(rows, first + done))
            done += len(rows)
        return b"".join(seeds), block, np.sum(parts, axis=0).reshape(-1).data

    def _open(self, total: Residues, seeds: Sequence[Buffer], limit: float) -> Done:
        rounded, worst = np.zeros((len(total) // self._plan.degree, self._plan.degree), np.int64), np.float64(0)
        done = 0
        for values in self.cipher.decrypt(total, seeds):
            nearest = np.rint(values)
            rounded[done : done + len(values)] = nearest
            done += len(values)
            np.subtract(values, nearest, out=nearest)
            worst = np.max([worst, nearest.max(), -nearest.min()])
            if not worst <= limit:
                break
        return rounded.reshape(-1).data, np.array([worst]).data
