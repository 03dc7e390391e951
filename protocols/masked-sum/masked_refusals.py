"""Messages that a client refuses, one a vector: sections 7 and 11 of SPEC.md."""

from __future__ import annotations

from dataclasses import replace

from masked_messages import SERVER, bitmap, blob, message, u32
from masked_play import FIVE, Play, Tamper, mesh, terms
from masked_primitives import sign
from masked_tampers import advert, bits, distant, flip, from_server, misrouted, roster, signatures


def refusals() -> list[Play]:
    """The messages that client 1 of five must refuse. A step is named after the message that would answer it."""
    own_keys = roster(lambda play, r: [r[0], advert(play, 1, b"\x09" * 32 + b"\x0a" * 32), *r[2:]])
    low_order = roster(lambda play, r: [*r[:2], advert(play, 2, bytes(32) + r[2][36:68]), *r[3:]])
    twice = roster(lambda play, r: [*r[:2], advert(play, 2, r[3][4:68]), *r[3:]])
    forged = roster(lambda play, r: [*r[:2], r[2][:-1] + bytes([r[2][-1] ^ 1]), *r[3:]])
    other_session = replace(FIVE, context=b"round 8").session
    silent = {4: "MaskedInput"}
    cases: list[tuple[str, dict[int, str], str, Tamper]] = [
        ("roster-with-other-keys-for-the-receiver", {}, "ShareKeys", own_keys),
        ("roster-without-the-receiver", {}, "ShareKeys", roster(lambda play, r: [r[0], *r[2:]])),
        ("roster-below-its-least-size", {}, "ShareKeys", roster(lambda play, r: r[:3])),
        ("roster-out-of-order", {}, "ShareKeys", roster(lambda play, r: [r[1], r[0], *r[2:]])),
        ("roster-with-a-repeated-client", {}, "ShareKeys", roster(lambda play, r: [*r, r[-1]])),
        ("roster-with-a-stranger", {}, "ShareKeys", roster(lambda play, r: [*r[:4], u32(9) + r[4][4:]])),
        ("roster-with-one-key-for-two", {}, "ShareKeys", twice),
        ("roster-with-a-forged-signature", {}, "ShareKeys", forged),
        ("roster-with-a-low-order-point", {}, "ShareKeys", low_order),
        ("roster-cut-inside-a-record", {}, "ShareKeys", roster(lambda play, r: [*r[:4], r[4][:-1]])),
        ("header-of-another-session", {}, "ShareKeys", lambda p, c, d: d[:11] + other_session + d[43:]),
        ("header-of-another-sender", {}, "ShareKeys", lambda p, c, d: d[:7] + u32(0) + d[11:]),
        ("header-of-another-version", {}, "ShareKeys", lambda p, c, d: d[:4] + b"\x02" + d[5:]),
        ("header-of-another-length", {}, "ShareKeys", lambda p, c, d: d + b"\x00"),
        ("survivors-too-early", {}, "MaskedInput", from_server("Survivors", lambda p, c, o: bitmap(5, range(5)))),
        ("boxes-list-without-the-receiver", {}, "MaskedInput", bits("Boxes", 0, 2, 3, 4)),
        ("boxes-list-over-other-places", {}, "MaskedInput", bits("Boxes", 0, 1, 2, 3, count=6)),
        ("boxes-list-with-padding-bits", {}, "MaskedInput", flip(55, 7)),
        (
            "boxes-fewer-than-the-list-says",
            {},
            "MaskedInput",
            from_server("Boxes", lambda p, c, o: o[:5] + blob(o[13:-94])),
        ),
        ("boxes-cut", {}, "MaskedInput", lambda p, c, d: d[:-1]),
        ("boxes-for-another-client", {}, "MaskedInput", misrouted),
        ("boxes-for-nobody", {}, "MaskedInput", flip(50, 7)),
        ("boxes-shorter-than-a-receiver", {}, "MaskedInput", lambda p, c, d: d[:43] + u32(3) + d[47:50]),
        (
            "boxes-of-which-two-do-not-open",
            {},
            "MaskedInput",
            from_server("Boxes", lambda p, c, o: o[:13] + bytes(2 * 94) + o[13 + 188 :]),
        ),
        (
            "boxes-re-routed",
            {},
            "MaskedInput",
            from_server("Boxes", lambda p, c, o: o[:13] + o[13 + 94 : 13 + 188] + o[13 : 13 + 94] + o[13 + 188 :]),
        ),
        ("survivors-without-the-receiver", {}, "ConsistencyCheck", bits("Survivors", 0, 2, 3, 4)),
        ("survivors-below-the-threshold", {}, "ConsistencyCheck", bits("Survivors", 0, 1, 2)),
        ("survivors-below-the-least", {}, "ConsistencyCheck", bits("Survivors", 0, 1)),
        (
            "survivors-with-one-that-never-shared",
            {4: "ShareKeys"},
            "ConsistencyCheck",
            bits("Survivors", 0, 1, 2, 3, 4),
        ),
        ("survivors-with-padding-bits", {}, "ConsistencyCheck", flip(51, 6)),
        ("survivors-and-a-byte", {}, "ConsistencyCheck", from_server("Survivors", lambda p, c, o: o + b"\x00")),
        (
            "signature-forged",
            {},
            "Unmask",
            signatures(lambda p, near, s: (near, [s[0][:-1] + bytes([s[0][-1] ^ 1]), *s[1:]])),
        ),
        (
            "signature-under-another-list",
            {},
            "Unmask",
            signatures(
                lambda p, near, s: (
                    near,
                    [sign(p.seeds[0], "survivors", *p.server.view.statement(0, [0, 1, 2, 3])), *s[1:]],
                )
            ),
        ),
        ("signature-of-another-client", {}, "Unmask", signatures(lambda p, near, s: (near, [s[1], s[1], *s[2:]]))),
        ("signatures-for-another-client", {}, "Unmask", misrouted),
        ("signatures-too-few", {}, "Unmask", signatures(lambda p, near, s: (near[:2], s[:2]))),
        ("signature-of-one-who-did-not-survive", silent, "Unmask", signatures(lambda p, near, s: ([0, 1, 3], s))),
        ("signatures-fewer-than-the-list-says", {}, "Unmask", signatures(lambda p, near, s: (near, s[:-1]))),
    ]
    plays = [Play("refuse-" + name, FIVE, drop, down=(step, 1, tamper)) for name, drop, step, tamper in cases]
    ring = terms(list(range(12)), 4, degree=6, arc=2, min_roster=7, min_survivors=2, context=b"round 8")

    def emptied(play: Play, client: int, data: bytes) -> bytes:
        order = play.server.view.order
        far = [place for place in range(12) if place not in (*play.server.view.holders(1), 1)]
        run = next(order[i : i + 3] for i in range(9) if set(order[i : i + 3]) <= set(far))
        left = [place for place in range(12) if place not in run]
        return message("Survivors", SERVER, play.terms.session, bitmap(12, left))

    plays.append(Play("refuse-survivors-that-cut-the-ring", ring, down=("ConsistencyCheck", 1, emptied)))
    few = ("ConsistencyCheck", 1, bits("Survivors", 0, 1, 2, 3))
    plays.append(Play("refuse-survivors-with-too-few-members", mesh([0, 1, 2, 3, 4], 4, 5, 1, 5), down=few))
    spread = mesh(list(range(9)), 3, 9, 2, 7, degree=4, arc=1, min_roster=7)
    plays.append(Play("refuse-roster-with-a-forged-distant-member", spread, down=("ShareKeys", 1, roster(distant))))
    return plays
