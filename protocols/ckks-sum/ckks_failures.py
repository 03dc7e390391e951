"""Messages that a party must refuse, each altered from a script of `reference.py`: section 10 of SPEC.md."""

import base64

from ckks_client import NO_KEY, take_seeds
from ckks_encryption import pack
from ckks_messages import SERVER, blob, body_for, listed, message
from ckks_primitives import digest, sign, u32


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
