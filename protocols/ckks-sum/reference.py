"""ckks-sum/1 in plain Python and numpy: slow, readable, independent of privfl, of TenSEAL and of SEAL.

Run it to write vectors/*.json. All secrets come from a public seed, and so does the encryption noise, which a real
client must draw freshly. The files, with the sections of SPEC.md that they follow:

- `ckks_primitives.py` (3), `ckks_encryption.py` with `blake2xb.py` (4 to 6);
- `ckks_messages.py`, `ckks_client.py` (7), `ckks_failures.py` (10);
- this one: whole sums, step by step (7), and the vectors.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from ckks_client import Client, take_seeds
from ckks_encryption import Plan, expand, pack, secret_polynomial, tag, transform
from ckks_failures import failures
from ckks_messages import SERVER, blob, body_for, listed, message, task_digest, text
from ckks_primitives import derive, digest, stream, u32, u64


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
