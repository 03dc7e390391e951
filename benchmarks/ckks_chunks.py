"""A client's work on some of its chunks, where a second process can import it."""

from __future__ import annotations

from privfl.he import CkksPlan
from privfl.he.keys import secret_polynomial
from privfl.he.packing import pack_into
from privfl.he.seal import SealCipher
from privfl.he.tags import Tagger
from privfl.ring import Ints


def encrypt_some(plan: CkksPlan, values: Ints, first: int) -> tuple[bytes, bytes, list[Ints]]:
    """What a client does to a vector's chunks from number `first` on; in whichever process."""
    cipher, tagger = SealCipher(plan, secret_polynomial(bytes(32), plan)), Tagger(plan, bytes(32), bytes(32))
    block = bytearray(-(-len(values) // plan.degree) * plan.degree * plan.residue_bytes)
    seeds, parts, done = [], [], 0
    for rows, some in cipher.encrypt_parts(values):
        seeds.append(some)
        pack_into(block, done * plan.degree, rows.reshape(-1), plan.residue_bytes)
        parts.append(tagger.part(rows, first + done))
        done += len(rows)
    return b"".join(seeds), bytes(block), parts
