"""The checks of received headers, seeds and votes, which need no key."""

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
    """Check that each survivor signed one header, all under one key and these parameters, with no seed twice.

    Args:
        plan: The parameters of the sum.
        directory: The clients' signing keys.
        headers: The received headers.
        digest: The task's digest, 32 bytes.
        survivors: The survivor list that this client signed.
        own: The header that this client sent.

    Raises:
        RemoteProtocolError: A check fails.
    """
    if tuple(header.client for header in headers) != survivors:
        raise RemoteProtocolError("the frames are not those of the survivor list that this client signed")
    if own not in headers:
        raise RemoteProtocolError("this client's own frame was replaced")
    seen: set[bytes] = set()
    for header in headers:
        check_header(plan, header, own.key)
        header.verify(digest, directory)
        seen |= fresh_seeds(plan, header, seen)


def check_header(plan: CkksPlan, header: FrameHeader, key: bytes) -> None:
    """Check everything that needs no directory: parameters, key, number of seeds, tags below the prime.

    Args:
        plan: The parameters of the sum.
        header: The received header.
        key: The id of the session key of this sum, 32 bytes.

    Raises:
        RemoteProtocolError: A check fails; `sender` is the client of the header.
    """
    if header.params != plan.identifier:
        raise RemoteProtocolError("a frame was made with other parameters", sender=header.client)
    if header.key != key:
        raise RemoteProtocolError("a frame was made under another session key", sender=header.client)
    if len(header.seeds) != plan.seeds_bytes:
        raise RemoteProtocolError(f"{plan.seeds_bytes} bytes of seeds expected", sender=header.client)
    if any(int.from_bytes(header.tag[at : at + 8], "little") >= plan.modulus for at in (0, 8)):
        raise RemoteProtocolError("a tag is not below the prime", sender=header.client)


def fresh_seeds(plan: CkksPlan, header: FrameHeader, seen: set[bytes]) -> set[bytes]:
    """Return the seeds of a checked header.

    Args:
        plan: The parameters of the sum.
        header: A header that `check_header` accepted.
        seen: The seeds of other frames.

    Returns:
        The seeds, 64 bytes each.

    Raises:
        RemoteProtocolError: A seed is in `seen`, or occurs twice. `sender` is the client whose frame is refused, which
            need not be the one that copied (SPEC.md, section 10).
    """
    seeds = {bytes(header.seeds[at : at + SEED_BYTES]) for at in range(0, plan.seeds_bytes, SEED_BYTES)}
    if len(seeds) != plan.chunks or not seeds.isdisjoint(seen):
        raise RemoteProtocolError("a seed occurs twice", sender=header.client)
    return seeds


def check_votes(
    directory: KeyDirectory,
    request: AskOpener,
    *,
    digest: bytes,
    key: bytes,
    survivors: tuple[ClientId, ...],
    quorum: int,
) -> None:
    """Check that at least a quorum of survivors signed this very list.

    Args:
        directory: The clients' signing keys.
        request: The request with the votes.
        digest: The task's digest, 32 bytes.
        key: The id of the session key, 32 bytes.
        survivors: The survivor list that this client signed.
        quorum: Signatures needed.

    Raises:
        RemoteProtocolError: A vote is repeated, a stranger's, or wrongly signed.
        TooFewSurvivors: There are fewer votes than `quorum`.
    """
    voters = [vote.client for vote in request.votes]
    if voters != sorted(set(voters)) or not set(voters) <= set(survivors):
        raise RemoteProtocolError("the votes repeat, or are not the survivors'")
    if len(voters) < quorum:
        raise TooFewSurvivors(len(voters), quorum)
    parts = consent_parts(digest, key, survivors)
    for vote in request.votes:
        verify_key = directory.verify_key(vote.client)
        verify_key.verify(vote.signature, "ckks-sum survivors", *parts, sender=vote.client)
