"""Messages of a client that the server refuses, one a vector: sections 8, 9 and 11 of SPEC.md."""

from __future__ import annotations

from masked_messages import bitmap, blob, u32
from masked_play import FIVE, TEN, Play, Tamper, mesh, terms
from masked_tampers import checked, flip, from_client, not_reduced, signed_advert, wrong_shares


def blamed() -> list[Play]:
    """The messages that a server must refuse from client 1 of five, and go on without it; or give up."""
    double = from_client("AdvertiseKeys", lambda p, c, o: signed_advert(p, c, o[:32] * 2))
    low = from_client("AdvertiseKeys", lambda p, c, o: signed_advert(p, c, o[:32] + bytes(32)))
    stolen = from_client("AdvertiseKeys", lambda p, c, o: signed_advert(p, c, p.clients[0].public[:32] + o[32:64]))

    def wrong_share(at: int) -> Tamper:
        return from_client(
            "Unmask", lambda p, c, o: o[: 13 + 33 * at] + bytes([o[13 + 33 * at] ^ 1]) + o[14 + 33 * at :]
        )

    def bad_dealer(play: Play, client: int, old: bytes) -> bytes:
        return bytes(32) + old[32:]

    cases: list[tuple[str, dict[int, str], str, Tamper]] = [
        ("advertisement-forged", {}, "AdvertiseKeys", flip(-1)),
        (
            "advertisement-unsigned",
            {},
            "AdvertiseKeys",
            from_client("AdvertiseKeys", lambda p, c, o: o[:64] + blob(b"")),
        ),
        ("advertisement-of-one-key-twice", {}, "AdvertiseKeys", double),
        ("advertisement-of-another-s-key", {}, "AdvertiseKeys", stolen),
        ("advertisement-of-a-low-order-point", {}, "AdvertiseKeys", low),
        ("advertisement-in-another-s-name", {}, "AdvertiseKeys", lambda p, c, d: d[:7] + u32(2) + d[11:]),
        ("advertisement-for-other-terms", {}, "AdvertiseKeys", flip(11)),
        ("boxes-too-few", {}, "ShareKeys", from_client("ShareKeys", lambda p, c, o: o[:32] + blob(o[40:-94]))),
        ("advertisement-once-more", {}, "ShareKeys", lambda p, c, d: p.outbox[c][0]),
        ("input-too-early", {}, "ShareKeys", from_client("MaskedInput", lambda p, c, o: o)),
        ("input-damaged", {}, "MaskedInput", flip(-1)),
        ("input-too-short", {}, "MaskedInput", from_client("MaskedInput", lambda p, c, o: checked(p, c, o[24:-4]))),
        ("input-not-reduced", {}, "MaskedInput", from_client("MaskedInput", not_reduced)),
        ("list-signed-by-another", {}, "ConsistencyCheck", from_client("ConsistencyCheck", lambda p, c, o: bytes(64))),
        ("share-beyond-the-prime", {}, "Unmask", from_client("Unmask", lambda p, c, o: o[:-33] + b"\xff" * 33)),
        (
            "shares-fewer-than-the-list-says",
            {},
            "Unmask",
            from_client("Unmask", lambda p, c, o: o[:5] + blob(o[13:-33])),
        ),
        ("share-wrong-of-a-survivor", {}, "Unmask", wrong_share(2)),
        ("share-wrong-of-a-dropout", {4: "MaskedInput"}, "Unmask", wrong_share(4)),
        (
            "share-not-given",
            {},
            "Unmask",
            from_client("Unmask", lambda p, c, o: bitmap(5, [0, 1, 2, 4]) + blob(o[13:112] + o[145:])),
        ),
        ("shares-wrong-of-all", {}, "Unmask", from_client("Unmask", wrong_shares(range(5)))),
        ("shares-wrong-of-two", {}, "Unmask", from_client("Unmask", wrong_shares((0, 3)))),
        ("shares-none-given", {}, "Unmask", from_client("Unmask", lambda p, c, o: bitmap(5, []) + blob(b""))),
        ("boxes-that-nobody-opens", {}, "ShareKeys", from_client("ShareKeys", lambda p, c, o: o[:40] + bytes(4 * 94))),
        ("seed-hash-of-nothing", {}, "ShareKeys", from_client("ShareKeys", bad_dealer)),
        ("too-few-at-the-end", {3: "Unmask"}, "Unmask", flip(50)),
        ("too-few-inputs", {2: "MaskedInput", 3: "MaskedInput"}, "MaskedInput", flip(-1)),
        ("too-few-advertisements", {3: "AdvertiseKeys"}, "AdvertiseKeys", flip(-1)),
    ]
    ring = terms(list(range(9)), 3, signed=False, degree=6, arc=1, min_roster=7)
    others = [
        Play("blame-seed-hash-of-nothing-of-ten", TEN, up=("ShareKeys", 1, from_client("ShareKeys", bad_dealer))),
        Play("blame-seed-hash-of-nothing-on-a-ring", ring, up=("ShareKeys", 1, from_client("ShareKeys", bad_dealer))),
        Play("blame-too-few-members", mesh([0, 1, 2, 3, 4], 4, 5, 1, 5), {4: "MaskedInput"}),
        Play("blame-shares-wrong-on-a-ring", ring, up=("Unmask", 1, from_client("Unmask", wrong_shares(range(6))))),
    ]
    return others + [Play("blame-" + name, FIVE, drop, up=(step, 1, tamper)) for name, drop, step, tamper in cases]
