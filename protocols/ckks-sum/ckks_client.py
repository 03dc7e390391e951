"""The messages of an honest client, step by step, and how a server takes seeds: section 7 of SPEC.md."""

import hashlib

import numpy as np
from ckks_encryption import decrypt, encrypt, pack, tag
from ckks_messages import blob
from ckks_primitives import agree, derive, digest, framed, public_key, sign, stream, u32
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NO_KEY = bytes(32)


class Client:
    """One honest client of the vectors; its entropy is listed there in the order of use."""

    def __init__(self, seed, identity, held=None):
        self.id = identity
        own = hashlib.sha256(seed + u32(identity)).digest()
        self.signing, self.box = derive(own, "vector signing"), derive(own, "vector box")
        self.randomness, self.session_key = derive(own, "vector randomness"), held
        self.dealt_key = derive(own, "vector session key")
        self.nonces = stream(derive(own, "vector nonces"), 12 * 16)
        self.held = derive(held, "ckks-sum key id") if held else NO_KEY

    def advert(self, task):
        public = public_key(self.box)
        signature = sign(self.signing, "ckks-sum advert", task, u32(self.id), public, self.held)
        return u32(self.id) + public + self.held + signature

    def deal(self, task, adverts):
        self.session_key = self.dealt_key
        key, used, boxes = derive(self.session_key, "ckks-sum key id"), 0, []
        for advert in adverts:
            other = advert[:4]
            if other == u32(self.id):
                continue
            context = (task, u32(self.id), other, key)
            secret = derive(agree(self.box, advert[4:36]), "ckks-sum box", *context)
            nonce = self.nonces[used : used + 12]
            boxes.append(other + nonce + AESGCM(secret).encrypt(nonce, self.session_key, framed(*context)))
            used += 12
        signature = sign(self.signing, "ckks-sum deal", task, u32(self.id), public_key(self.box), key)
        return key + signature, boxes

    def frame(self, task, plan, values):
        block, seed = encrypt(values, self.session_key, plan, self.randomness)
        key = derive(self.session_key, "ckks-sum key id")
        packed = pack(block, plan)
        mac = tag(block, self.id, self.session_key, task, plan)
        signed = u32(self.id) + plan.identifier + key + digest(seed) + digest(packed) + mac
        signature = sign(self.signing, "ckks-sum frame", task, signed)
        header = u32(self.id) + plan.identifier + key + blob(seed) + digest(packed) + mac + signature
        return {"header": header, "signed": signed, "block": block, "packed": packed, "seed": seed, "key": key}

    def consent(self, task, key, survivors):
        return sign(self.signing, "ckks-sum survivors", task, key, b"".join(map(u32, survivors)))

    def opened(self, task, plan, block, frames):
        values = decrypt(block, [frame["seed"] for frame in frames], self.session_key, plan)
        total = np.rint(values).astype(np.int64)
        assert np.abs(values - total).max() < 0.1
        words = (total[: plan.length] & ((1 << plan.bits) - 1)).astype("<u4").tobytes()
        record = digest(b"privfl/1 ckks-sum transcript", task, *(digest(frame["signed"]) for frame in frames))
        signature = sign(self.signing, "ckks-sum opened", task, record, digest(words))
        return signature + blob(words), total[: plan.length], record


def take_seeds(seeds, taken):
    """Section 7, step 3, at the server: the seeds of one frame, unless one occurs there twice or was taken before."""
    fresh = {seeds[at : at + 64] for at in range(0, len(seeds), 64)}
    return fresh if 64 * len(fresh) == len(seeds) and not fresh & taken else None
