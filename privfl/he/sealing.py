"""One vector into what its frame holds, a few chunks at a time: the counterpart of opening."""

from __future__ import annotations

from privfl.he.packing import pack_into
from privfl.he.plan import CkksPlan
from privfl.he.seal import SealCipher
from privfl.he.tags import Tag, Tagger
from privfl.ring import Ints


def encrypt_block(plan: CkksPlan, vector: Ints, cipher: SealCipher, tagger: Tagger) -> tuple[bytes, memoryview, Tag]:
    """int64 `[length]` -> (seeds, packed c0 block, its tag without a pad).

    Residues are packed and tagged while they are in the cache; nothing of 8 bytes a value is ever made.
    """
    seeds, block, parts = [], bytearray(plan.block_bytes), []
    done = 0
    for rows, some in cipher.encrypt_parts(vector):
        seeds.append(some)
        pack_into(block, done * plan.degree, rows.reshape(-1), plan.residue_bytes)
        parts.append(tagger.part(rows, done))
        done += len(rows)
    return b"".join(seeds), memoryview(block), tagger.whole(parts)
