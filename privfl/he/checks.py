"""Checks of what came over the wire that need no key: headers, seeds, votes."""

from __future__ import annotations

from privfl.crypto import KeyDirectory
from privfl.errors import RemoteProtocolError, TooFewSurvivors
from privfl.he.messages import AskOpener, FrameHeader, consent_parts
from privfl.he.plan import SEED_BYTES, CkksPlan
from privfl.wire import ClientId


def check_headers(
    plan: CkksPlan,
    directory: KeyDirectory,
    headers: tuple[FrameHeader, ...],
    *,
    digest: bytes,
    survivors: tuple[ClientId, ...],
    own: FrameHeader,
) -> None:
    """One signed header of each survivor, all under this key and these parameters, and no seed twice."""
    if tuple(header.client for header in headers) != survivors:
        raise RemoteProtocolError("the frames are not those of the survivor list that this client signed")
    if own not in headers:
        raise RemoteProtocolError("this client's own frame was replaced")
    seen: set[bytes] = set()
    for header in headers:
        check_header(plan, header, own.key)
        header.verify(digest, directory)
        seen.update(bytes(header.seeds[at : at + SEED_BYTES]) for at in range(0, plan.seeds_bytes, SEED_BYTES))
    if len(seen) != len(headers) * plan.chunks:
        raise RemoteProtocolError("a seed occurs twice")


def check_header(plan: CkksPlan, header: FrameHeader, key: bytes) -> None:
    """What does not need the directory: parameters, key, number of seeds, tags below the prime."""
    if header.params != plan.identifier:
        raise RemoteProtocolError("a frame was made with other parameters", sender=header.client)
    if header.key != key:
        raise RemoteProtocolError("a frame was made under another session key", sender=header.client)
    if len(header.seeds) != plan.seeds_bytes:
        raise RemoteProtocolError(f"{plan.seeds_bytes} bytes of seeds expected", sender=header.client)
    if any(int.from_bytes(header.tag[at : at + 8], "little") >= plan.modulus for at in (0, 8)):
        raise RemoteProtocolError("a tag is not below the prime", sender=header.client)


def check_votes(
    directory: KeyDirectory,
    request: AskOpener,
    *,
    digest: bytes,
    key: bytes,
    survivors: tuple[ClientId, ...],
    quorum: int,
) -> None:
    """At least a quorum of survivors signed this very list."""
    voters = [vote.client for vote in request.votes]
    if voters != sorted(set(voters)) or not set(voters) <= set(survivors):
        raise RemoteProtocolError("the votes repeat, or are not the survivors'")
    if len(voters) < quorum:
        raise TooFewSurvivors(len(voters), quorum)
    parts = consent_parts(digest, key, survivors)
    for vote in request.votes:
        verify_key = directory.verify_key(vote.client)
        verify_key.verify(vote.signature, "ckks-sum survivors", *parts, sender=vote.client)
