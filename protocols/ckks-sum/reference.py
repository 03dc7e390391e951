"""ckks-sum/1 in plain Python and numpy: slow, readable, independent of privfl, of TenSEAL and of SEAL.

Run it to write vectors/*.json. All secrets come from a public seed, and so does the encryption noise, which a real
client must draw freshly. SPEC.md numbers the sections that the comments name.
"""

import base64
import functools
import hashlib
import hmac
import json
import struct
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

SERVER = 0xFFFF_FFFF
NO_KEY = bytes(32)
PRIMES = {(2048, 40): 0xFF_FFFF_7001, (2048, 48): 0xFFFF_FFFF_C001}
KINDS = {
    "Advertise": 0x0301,
    "AskDealer": 0x0302,
    "Deal": 0x0303,
    "Dealt": 0x0304,
    "UseKey": 0x0305,
    "Frame": 0x0306,
    "Survivors": 0x0307,
    "Consent": 0x0308,
    "AskOpener": 0x0309,
    "Opened": 0x030A,
}

# Section 3: hashes, keys, streams, signatures


def u32(value):
    return struct.pack("<I", value)


def u64(value):
    return struct.pack("<Q", value)


def framed(*parts):
    return b"".join(u32(len(part)) + part for part in parts)


def derive(secret, label, *context):
    extracted = hmac.new(bytes(32), secret, "sha256").digest()
    info = framed(b"privfl/1 " + label.encode(), *context)
    return hmac.new(extracted, info + b"\x01", "sha256").digest()


def stream(key, count):
    return Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(count))


def digest(*parts):
    return hashlib.blake2b(b"".join(parts), digest_size=32).digest()


def sign(secret, label, *parts):
    return Ed25519PrivateKey.from_private_bytes(secret).sign(framed(b"privfl/1 " + label.encode(), *parts))


def verify_key(secret):
    return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def public_key(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret, public):
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


# Section 4: parameters. The vectors use ring degree 2048 only.


class Plan:
    def __init__(self, length, clients, bits):
        self.length, self.clients, self.bits, self.degree = length, clients, bits, 2048
        for self.prime_bits in (40, 48):
            self.q = PRIMES[self.degree, self.prime_bits]
            fits = [k for k in range(16, 49) if 2**0.5 * 2.0 ** (k + bits - 1) + 1000 < self.q / 2]
            if fits:
                break
        self.scale_bits = max(fits)
        self.size = self.prime_bits // 8
        numbers = (length, clients, bits, self.degree, self.prime_bits, self.scale_bits, 128, self.q)
        self.identifier = hashlib.sha256(b"privfl/1 ckks-sum parameters" + b"".join(map(u64, numbers))).digest()


# Section 5: ring arithmetic, expansion of seeds, encryption


def reverse(index, bits):
    return int(format(index, f"0{bits}b")[::-1], 2)


@functools.cache
def root_of_unity(n, q):
    """The smallest primitive 2n-th root modulo q."""
    base = next(r for x in range(2, 100) if pow(r := pow(x, (q - 1) // (2 * n), q), n, q) == q - 1)
    smallest, power = base, base
    for _ in range(n - 1):
        power = power * base * base % q
        smallest = min(smallest, power)
    return smallest


def transform(polynomial, plan):
    """Entry i is the polynomial at psi^(2 * reverse(i) + 1)."""
    bits = plan.degree.bit_length() - 1
    root = root_of_unity(plan.degree, plan.q)
    points = np.array([pow(root, 2 * reverse(i, bits) + 1, plan.q) for i in range(plan.degree)], object)
    value = np.zeros(plan.degree, object)
    for coefficient in reversed(list(polynomial)):
        value = (value * points + int(coefficient)) % plan.q
    return value


def inverse_transform(values, plan):
    """Centered coefficients of the polynomial with these values."""
    bits, n, q = plan.degree.bit_length() - 1, plan.degree, plan.q
    inverse = pow(root_of_unity(plan.degree, plan.q), -1, q)
    natural = np.empty(n, object)
    for i in range(n):
        natural[reverse(i, bits)] = int(values[i])
    powers = [1]
    for _ in range(2 * n - 1):
        powers.append(powers[-1] * inverse % q)
    table = np.array(powers, object)
    scale = pow(n, -1, q)
    odd = 2 * np.arange(n) + 1
    out = [int((natural * table[odd * j % (2 * n)]).sum()) * scale % q for j in range(n)]
    return [c - q if c > q // 2 else c for c in out]


IV = [
    0x6A09E667F3BCC908,
    0xBB67AE8584CAA73B,
    0x3C6EF372FE94F82B,
    0xA54FF53A5F1D36F1,
    0x510E527FADE682D1,
    0x9B05688C2B3E6C1F,
    0x1F83D9ABFB41BD6B,
    0x5BE0CD19137E2179,
]
SIGMA = [
    "0123456789abcdef",
    "ea489fd61c02b753",
    "b8c052fdae367194",
    "7931dcbe265a40f8",
    "905724afe1bc683d",
    "2c6a0b834d75fe19",
    "c51fed4a0763928b",
    "db7ec13950f4862a",
    "6fe9b308c2d714a5",
    "a2847615fb9e3cd0",
]
MASK = (1 << 64) - 1


def rotate(word, count):
    return (word >> count | word << (64 - count)) & MASK


def blake2b(parameters, message, key=b""):
    """RFC 7693 with the parameter block given whole: hashlib does not offer the depth of 0 that Blake2xb wants."""
    if key:
        message = key.ljust(128, b"\0") + message
    h = [iv ^ word for iv, word in zip(IV, struct.unpack("<8Q", parameters), strict=True)]
    for start in range(0, len(message), 128):
        block = message[start : start + 128]
        m = struct.unpack("<16Q", block.ljust(128, b"\0"))
        v = h + IV
        v[12] ^= start + len(block)
        if start + 128 >= len(message):
            v[14] ^= MASK
        for step in range(12):
            s = [int(c, 16) for c in SIGMA[step % 10]]
            for i in range(8):
                a, b = i % 4, 4 + (i + i // 4) % 4
                c, d = 8 + (i + 2 * (i // 4)) % 4, 12 + (i + 3 * (i // 4)) % 4
                v[a] = (v[a] + v[b] + m[s[2 * i]]) & MASK
                v[d] = rotate(v[d] ^ v[a], 32)
                v[c] = (v[c] + v[d]) & MASK
                v[b] = rotate(v[b] ^ v[c], 24)
                v[a] = (v[a] + v[b] + m[s[2 * i + 1]]) & MASK
                v[d] = rotate(v[d] ^ v[a], 16)
                v[c] = (v[c] + v[d]) & MASK
                v[b] = rotate(v[b] ^ v[c], 63)
        h = [h[i] ^ v[i] ^ v[i + 8] for i in range(8)]
    return struct.pack("<8Q", *h)


def blake2xb(seed, counter):
    """4096 bytes: root hash of the counter under the seed as key, then one output node for every 64 bytes."""

    # length, key length, fanout, depth; leaf length, node, length of the whole output; node depth, inner length
    form = "<BBBBIIIBB14x32x"
    root = blake2b(struct.pack(form, 64, len(seed), 1, 1, 0, 0, 4096, 0, 0), u64(counter), seed)
    return b"".join(blake2b(struct.pack(form, 64, 0, 0, 0, 64, node, 4096, 0, 64), root) for node in range(64))


def expand(seed, plan):
    """The random half of one ciphertext: 64-bit words of the stream, reduced; the topmost words are sampled again."""
    words, counter = [], 0
    limit = MASK - MASK % plan.q - 1
    while len(words) < plan.degree or any(word >= limit for word in words[: plan.degree]):
        words += struct.unpack("<512Q", blake2xb(seed, counter))
        counter += 1
        for i in range(plan.degree if len(words) > plan.degree else 0):
            while words[i] >= limit and len(words) > plan.degree:
                words[i] = words.pop(plan.degree)
    return np.array([word % plan.q for word in words[: plan.degree]], object)


def secret_polynomial(session_key, plan):
    key = derive(session_key, "ckks-sum secret", u32(plan.degree) + u64(plan.q))
    kept = [byte % 3 for byte in stream(key, 2 * plan.degree) if byte < 255][: plan.degree]
    return [-1 if value == 2 else value for value in kept]


@functools.cache
def transformed_secret(session_key, plan):
    return transform(secret_polynomial(session_key, plan), plan)


def encode(values, plan):
    """The polynomial with values[i] + i*values[N/2 + i], times D, at zeta^(3^i)."""
    n = plan.degree
    padded = np.zeros(n)
    padded[: len(values)] = values
    slots = padded[: n // 2] + 1j * padded[n // 2 :]
    exponents = np.array([pow(3, i, 2 * n) for i in range(n // 2)])
    spectrum = np.zeros(2 * n, complex)
    spectrum[exponents], spectrum[2 * n - exponents] = slots, np.conj(slots)
    return [int(c) for c in np.rint(np.fft.fft(spectrum)[:n].real / n * 2.0**plan.scale_bits)]


def decode(polynomial, plan):
    n = plan.degree
    values = np.fft.ifft(np.concatenate([polynomial, np.zeros(n)]).astype(float)) * 2 * n / 2.0**plan.scale_bits
    slots = values[[pow(3, i, 2 * n) for i in range(n // 2)]]
    return np.concatenate([slots.real, slots.imag])


def encrypt(values, session_key, plan, randomness):
    """(c0, seed) with c0 = m + e - a*s, all transformed."""
    seed = derive(randomness, "vector seed") + derive(randomness, "vector seed 2")
    coins = np.unpackbits(np.frombuffer(stream(derive(randomness, "vector noise"), 6 * plan.degree), np.uint8))
    coins = coins.reshape(plan.degree, 48).astype(int)
    noise = coins[:, :21].sum(1) - coins[:, 21:42].sum(1)
    message = np.array(encode(values, plan), object) + noise
    secret = transformed_secret(session_key, plan)
    return (transform(message, plan) - expand(seed, plan) * secret) % plan.q, seed


def decrypt(block, seeds, session_key, plan):
    half = sum((expand(seed, plan) for seed in seeds), np.zeros(plan.degree, object))
    secret = transformed_secret(session_key, plan)
    return decode(inverse_transform((block + half * secret) % plan.q, plan), plan)


def pack(block, plan):
    return b"".join(int(word).to_bytes(plan.size, "little") for word in block)


# Section 6: tags


def draw(key, count, plan):
    words = [word >> (64 - plan.prime_bits) for word in struct.unpack(f"<{count}Q", stream(key, 8 * count))]
    return [word - plan.q if word >= plan.q else word for word in words]


def tag(block, sender, session_key, task, plan):
    n, chunks = plan.degree, 1
    weights = draw(derive(session_key, "ckks-sum tag weights", task), 2 * (n + chunks), plan)
    pads = draw(derive(derive(session_key, "ckks-sum tag pads", task), "ckks-sum tag pad", u32(sender)), 2, plan)
    out = b""
    for t in (0, 1):
        inner = sum(int(c) * r for c, r in zip(block, weights[t * n : (t + 1) * n], strict=True))
        out += u64((weights[2 * n + t * chunks] * inner + pads[t]) % plan.q)
    return out


# Section 7: messages


def message(name, sender, task, body):
    return struct.pack("<4sBHI", b"pvfl", 1, KINDS[name], sender) + task + u32(len(body)) + body


def body_for(receiver, body):
    """A body that differs by receiver: it begins with the receiver's identity."""
    return u32(receiver) + body


def blob(data):
    return u64(len(data)) + data


def listed(items):
    return u32(len(items)) + b"".join(items)


def task_digest(context, clients, *, minimum, length, bits, bound):
    form = blob(context) + listed([u32(c) for c in clients]) + u64(minimum) + u64(length) + struct.pack("<H", bits)
    return hashlib.sha256(b"privfl/1 sum-task" + form + u64(bound)).digest()


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


def run(name, *, clients, bits, length, minimum, held=None, silent=()):
    """A whole sum as a script; `silent` holds (client, name of the message that it does not send)."""
    seed = b"privfl ckks-sum vector " + name.encode()
    bound = ((1 << (bits - 1)) - 1) // clients
    plan = Plan(length, clients, bits)
    task = task_digest(seed, range(clients), minimum=minimum, length=length, bits=bits, bound=bound)
    people = [Client(seed, identity, held) for identity in range(clients)]
    vectors = [
        [
            int.from_bytes(hashlib.sha256(seed + u32(c) + u32(i)).digest()[:8], "little") % (2 * bound + 1) - bound
            for i in range(length)
        ]
        for c in range(clients)
    ]
    script = []

    def up(sender, kind, body):
        if (sender, kind) in silent:
            return False
        script.append({"from": sender, "kind": kind, "message": text(message(kind, sender, task, body))})
        return True

    def down(kind, bodies):
        sent = {str(c): text(message(kind, SERVER, task, body)) for c, body in bodies.items()}
        script.append({"advance": kind, "messages": sent})

    adverts = {c.id: c.advert(task) for c in people if up(c.id, "Advertise", c.advert(task))}
    if held:
        down("UseKey", dict.fromkeys(adverts, derive(held, "ckks-sum key id")))
    else:
        while True:
            dealer = min(adverts)
            down("AskDealer", {dealer: body_for(dealer, listed([adverts[c] for c in sorted(adverts)]))})
            fixed, boxes = people[dealer].deal(task, [adverts[c] for c in sorted(adverts)])
            if up(dealer, "Deal", fixed + listed(boxes)):
                break
            del adverts[dealer]
        for c in adverts:
            people[c].session_key = people[dealer].session_key
        own = {box[:4]: [box] for box in boxes}
        parts = {c: adverts[dealer] + fixed + listed(own.get(u32(c), [])) for c in sorted(adverts)}
        down("Dealt", {c: body_for(c, part) for c, part in parts.items()})
    frames, taken = {}, set()
    for c in sorted(adverts):
        frame = people[c].frame(task, plan, vectors[c])
        if up(c, "Frame", frame["header"] + blob(frame["packed"])):
            fresh = take_seeds(frame["seed"], taken)
            assert fresh, "honest seeds never repeat"
            taken |= fresh
            frames[c] = frame
    survivors = sorted(frames)
    key = frames[survivors[0]]["key"]
    down("Survivors", dict.fromkeys(survivors, listed([u32(c) for c in survivors])))
    votes = {c: people[c].consent(task, key, survivors) for c in survivors}
    votes = {c: vote for c, vote in votes.items() if up(c, "Consent", vote)}
    block = sum(frame["block"] for frame in frames.values()) % plan.q
    ask = listed([frames[c]["header"] for c in survivors]) + listed([u32(c) + votes[c] for c in sorted(votes)])
    for opener in sorted(votes):
        down("AskOpener", {opener: body_for(opener, ask + blob(pack(block, plan)))})
        body, total, record = people[opener].opened(task, plan, block, [frames[c] for c in survivors])
        assert total.tolist() == np.sum([vectors[c] for c in survivors], axis=0).tolist()
        if up(opener, "Opened", body):
            break
    secrets = {
        str(c.id): {
            "signing": c.signing.hex(),
            "session_key": held.hex() if held else None,
            "entropy": (c.box + c.dealt_key + c.nonces).hex(),
            "vector": vectors[c.id],
        }
        for c in people
    }
    return {
        "format": "privfl ckks-sum vector 1",
        "name": name,
        "task": {
            "context": seed.hex(),
            "clients": clients,
            "min_survivors": minimum,
            "length": length,
            "bits": bits,
            "bound": bound,
        },
        "plan": {
            "degree": plan.degree,
            "prime": plan.q,
            "scale_bits": plan.scale_bits,
            "identifier": plan.identifier.hex(),
        },
        "parties": secrets,
        "script": script,
        "result": {"total": total.tolist(), "survivors": survivors, "transcript": record.hex()},
    }, (task, plan, people, frames, votes, block)


def primitives():
    """Known answers for everything under the messages."""
    key, task, plan = bytes(range(32)), bytes(range(32, 64)), Plan(5, 3, 23)
    secret, half = secret_polynomial(key, plan), expand(bytes(range(64)), plan)
    block = np.arange(plan.degree).astype(object) ** 3 % plan.q
    root = derive(key, "ckks-sum opening", task)
    return {
        "format": "privfl ckks-sum primitives 1",
        "session_key": key.hex(),
        "task": task.hex(),
        "key_id": derive(key, "ckks-sum key id").hex(),
        "secret": secret[:64],
        "secret_digest": digest(bytes(value % 256 for value in secret)).hex(),
        "transformed_digest": digest(b"".join(u64(int(word)) for word in transform(secret, plan))).hex(),
        "seed": bytes(range(64)).hex(),
        "expanded": [int(word) for word in half[:8]],
        "expanded_digest": digest(b"".join(u64(int(word)) for word in half)).hex(),
        "block": "residue i is i^3 mod q",
        "tag_of_client_7": tag(block, 7, key, task, plan).hex(),
        "opening_entropy": stream(derive(root, "ckks-sum opening block", u64(0)), 64).hex(),
    }


def text(data):
    return base64.b64encode(data).decode()


def failures(script, state):
    """One failure a file: at that point of three-clients.json, this message ends in that error."""
    task, plan, people, frames, votes, block = state

    def flipped(sender, kind, at):
        """A message of the script with one bit of byte `at`, in its signature, flipped."""
        (step,) = (step for step in script if (step.get("from"), step.get("kind")) == (sender, kind))
        data = bytearray(base64.b64decode(step["message"]))
        data[at] ^= 1
        return {
            "party": "server",
            "before": kind,
            "sender": sender,
            "error": "RemoteProtocolError",
            "message": bytes(data),
        }

    def frame(change, block=None, **fields):
        made = dict(frames[2])
        packed = made["packed"] if block is None else block
        parts = {
            "params": plan.identifier,
            "key": made["key"],
            "seed": made["seed"],
            "tag": made["header"][-80:-64],
            **fields,
        }
        signed = u32(2) + parts["params"] + parts["key"] + digest(parts["seed"]) + digest(packed) + parts["tag"]
        signature = sign(people[2].signing, "ckks-sum frame", task, signed)
        header = (
            u32(2) + parts["params"] + parts["key"] + blob(parts["seed"]) + digest(packed) + parts["tag"] + signature
        )
        return change(message("Frame", 2, task, header + blob(packed)))

    assert take_seeds(frames[1]["seed"], {frames[0]["seed"], frames[1]["seed"]}) is None
    assert take_seeds(frames[1]["seed"] * 2, set()) is None

    adverts = [person.advert(task) for person in people]

    def sent(kind, receiver):
        """The server's message of this kind to this client."""
        (step,) = (step for step in script if step.get("advance") == kind)
        return base64.b64decode(step["messages"][str(receiver)])

    def same(data):
        return data

    def ask(headers=None, chosen=None, summed=None, receiver=0):
        headers = [frames[c]["header"] for c in (0, 1, 2)] if headers is None else headers
        chosen = [0, 1, 2] if chosen is None else chosen
        body = listed(headers) + listed([u32(c) + votes[c] for c in chosen])
        body += blob(pack(block if summed is None else summed, plan))
        return message("AskOpener", SERVER, task, body_for(receiver, body))

    at_prime = plan.q.to_bytes(plan.size, "little") + frames[2]["packed"][plan.size :]
    copied = sign(
        people[2].signing,
        "ckks-sum frame",
        task,
        u32(2)
        + plan.identifier
        + frames[2]["key"]
        + digest(frames[1]["seed"])
        + digest(frames[2]["packed"])
        + frames[2]["header"][-80:-64],
    )
    copied_header = (
        u32(2)
        + plan.identifier
        + frames[2]["key"]
        + blob(frames[1]["seed"])
        + digest(frames[2]["packed"])
        + frames[2]["header"][-80:-64]
        + copied
    )
    three = [frames[c]["header"] for c in (0, 1, 2)]
    survivors = message("Survivors", SERVER, task, listed([u32(0)]))
    at_server = {"party": "server", "before": "Frame", "sender": 2, "error": "RemoteProtocolError"}
    unusable = at_server | {"error": "WireError"}  # cut or misrouted: nothing changes, and nobody is blamed
    at_opener = {"party": 0, "before": "AskOpener", "error": "RemoteProtocolError"}
    return {
        "advert-flipped-signature": flipped(2, "Advertise", -1 - 20),
        "deal-flipped-signature": flipped(0, "Deal", 47 + 32 + 20),
        "consent-flipped-signature": flipped(2, "Consent", 47 + 20),
        "opened-flipped-signature": flipped(0, "Opened", 47 + 20),
        "four-hostile-bytes": unusable | {"message": bytes.fromhex("0a028020")},
        "frame-truncated": unusable | {"message": frame(lambda data: data[:-1])},
        "frame-flipped-signature": flipped(2, "Frame", 47 + 188 + 20),
        "frame-residue-at-the-prime": at_server | {"message": frame(same, block=at_prime)},
        "frame-under-another-key": at_server | {"message": frame(same, key=bytes(32))},
        "frame-with-other-parameters": at_server | {"message": frame(same, params=bytes(32))},
        "frame-with-half-a-seed": at_server | {"message": frame(same, seed=bytes(32))},
        "frame-with-a-copied-seed": at_server | {"message": frame(same, seed=frames[1]["seed"])},
        "frame-of-another-sender": unusable
        | {"message": message("Frame", 1, task, frames[1]["header"] + blob(frames[1]["packed"]))},
        "deal-request-for-another-client": unusable
        | {
            "party": 0,
            "before": "AskDealer",
            "message": message("AskDealer", SERVER, task, body_for(1, listed(adverts))),
        },
        "deal-for-another-client": unusable | {"party": 1, "before": "Dealt", "message": sent("Dealt", 2)},
        "deal-for-nobody": unusable
        | {"party": 1, "before": "Dealt", "message": message("Dealt", SERVER, task, u32(1)[:3])},
        "opener-request-for-another-client": at_opener | {"message": ask(receiver=1), "error": "WireError"},
        "opener-scaled-sum": at_opener | {"message": ask(summed=block * 2 % plan.q)},
        "opener-one-frame-as-the-sum": at_opener | {"message": ask(summed=frames[1]["block"])},
        "opener-shifted-sum": at_opener | {"message": ask(summed=(block + 1) % plan.q)},
        "opener-too-few-votes": at_opener | {"message": ask(chosen=[0]), "error": "TooFewSurvivors"},
        "opener-a-vote-twice": at_opener | {"message": ask(chosen=[0, 0, 1])},
        "opener-a-header-missing": at_opener | {"message": ask(headers=three[:2])},
        "opener-a-copied-seed": at_opener | {"message": ask(headers=[*three[:2], copied_header])},
        "use-key-that-was-not-advertised": {
            "party": 1,
            "before": "Dealt",
            "error": "RemoteProtocolError",
            "message": message("UseKey", SERVER, task, frames[1]["key"]),
        },
        "use-key-of-those-without": {
            "party": 1,
            "before": "Dealt",
            "error": "RemoteProtocolError",
            "message": message("UseKey", SERVER, task, NO_KEY),
        },
        "survivors-below-the-quorum": {
            "party": 0,
            "before": "Survivors",
            "error": "TooFewSurvivors",
            "message": survivors,
        },
    }


def everything():
    """All vectors, by name."""
    three, state = run("three-clients", clients=3, bits=23, length=5, minimum=2)
    silent = {(0, "Deal"), (2, "Frame"), (1, "Opened")}
    written = {
        "primitives": primitives(),
        "three-clients": three,
        "dropouts": run("dropouts", clients=5, bits=23, length=3, minimum=3, silent=silent)[0],
        "held-key": run("held-key", clients=2, bits=31, length=4, minimum=1, held=bytes(range(100, 132)))[0],
    }
    for name, failure in failures(three["script"], state).items():
        failure["message"] = text(failure["message"])
        written[f"fail-{name}"] = {"format": "privfl ckks-sum failure 1", "base": "three-clients", **failure}
    return written


def main():
    folder = Path(__file__).parent / "vectors"
    folder.mkdir(exist_ok=True)
    for name, content in everything().items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
