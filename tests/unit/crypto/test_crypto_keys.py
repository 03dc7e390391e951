"""Key derivation, key agreement, boxes, signatures and mask streams, each against an independent computation."""

import hashlib
import hmac
import os
import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

from privfl.crypto import AgreementKey, SigningKey, VerifyKey, add_keystreams
from privfl.crypto.kdf import derive, framed
from privfl.crypto.keystream import CHUNK_BYTES
from privfl.crypto.sealed import SEAL_OVERHEAD, seal, tag, unseal
from privfl.crypto.signing import SIGNATURE_BYTES
from privfl.errors import ConfigError, RemoteProtocolError

KEY = bytes(range(32))


def hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2, with an empty salt."""
    prk = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    block, out = b"", b""
    for i in range(1, -(-length // 32) + 1):
        block = hmac.new(prk, block + info + bytes([i]), hashlib.sha256).digest()
        out += block
    return out[:length]


def test_derive_is_hkdf_under_a_versioned_framed_label() -> None:
    info = b"\x0a\0\0\0privfl/1 x" + b"\x01\0\0\0a" + b"\0\0\0\0"
    assert derive(KEY, "x", b"a", b"", length=80) == hkdf(KEY, info, 80)


def test_derived_keys_differ_by_label_and_by_every_split_of_the_context() -> None:
    keys = {derive(KEY, label, *context) for label in "xy" for context in [(b"ab",), (b"a", b"b"), (b"", b"ab"), ()]}
    assert len(keys) == 8
    assert framed(b"ab") != framed(b"a", b"b")


def test_derive_refuses_a_short_secret() -> None:
    with pytest.raises(ConfigError, match="32"):
        derive(b"password", "x")


def test_agreement_is_mutual_and_its_secret_hidden() -> None:
    a, b = AgreementKey.generate(), AgreementKey.generate()
    assert a.agree(b.public) == b.agree(a.public) != a.agree(a.public)
    assert a.secret.hex() not in repr(a)
    assert str(a.secret) not in repr(a)


def test_agreement_matches_rfc_7748_section_5_2() -> None:
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    expected = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert AgreementKey(scalar).agree(point).hex() == expected


LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


@pytest.mark.parametrize("point", LOW_ORDER, ids=[p.hex()[:8] for p in LOW_ORDER])
def test_low_order_points_are_refused(point: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="low order") as caught:
        AgreementKey.generate().agree(point, sender=4)
    assert caught.value.sender == 4


def test_agreement_refuses_other_lengths() -> None:
    with pytest.raises(RemoteProtocolError, match="32 bytes"):
        AgreementKey.generate().agree(bytes(31))
    with pytest.raises(ConfigError, match="32 bytes"):
        AgreementKey(bytes(33))


def test_a_box_opens_only_whole_and_in_place() -> None:
    box = seal(KEY, b"share", associated=b"1->2")
    assert len(box) == 5 + SEAL_OVERHEAD
    assert unseal(KEY, box, associated=b"1->2") == b"share"
    assert box != seal(KEY, b"share", associated=b"1->2")
    for bit in range(8 * len(box)):
        bad = bytearray(box)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RemoteProtocolError):
            unseal(KEY, bytes(bad), associated=b"1->2")
    for attempt in (
        (KEY, box, b"2->1"),
        (bytes(32), box, b"1->2"),
        (KEY, box[:27], b"1->2"),
        (KEY, box + b"0", b"1->2"),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            unseal(attempt[0], attempt[1], associated=attempt[2], sender=9)
        assert caught.value.sender == 9


def test_a_signature_holds_for_one_label_and_one_list_of_parts() -> None:
    key = SigningKey.generate()
    signature = key.sign("a", b"x", b"y")
    assert len(signature) == SIGNATURE_BYTES
    key.public.verify(signature, "a", b"x", b"y")
    for label, parts in [("b", (b"x", b"y")), ("a", (b"xy",)), ("a", (b"y", b"x")), ("a", ())]:
        with pytest.raises(RemoteProtocolError) as caught:
            key.public.verify(signature, label, *parts, sender=3)
        assert caught.value.sender == 3
    with pytest.raises(RemoteProtocolError):
        key.public.verify(signature[:63], "a", b"x", b"y")
    with pytest.raises(RemoteProtocolError):
        VerifyKey(bytes(31) + b"\xff").verify(signature, "a", b"x", b"y")
    with pytest.raises(ConfigError, match="label"):
        key.sign("")
    assert pickle.loads(pickle.dumps(key)) == key  # noqa: S301 (our own bytes: process pools move credentials so)
    assert key.secret.hex() not in repr(key)


def keystream(key: bytes, count: int) -> bytes:
    """AES-256-CTR spelled out: the block cipher over a big-endian counter."""
    cipher = Cipher(AES256(key), ECB()).encryptor()  # noqa: S305 (single blocks)
    return b"".join(cipher.update(i.to_bytes(16, "big")) for i in range(-(-count // 16)))[:count]


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<u8"])
@pytest.mark.parametrize("length", [0, 1, 7, 1000, CHUNK_BYTES // 2 + 3])
def test_mask_streams_are_aes_ctr(dtype: str, length: int) -> None:
    words = np.arange(length).astype(dtype)
    expected = words.copy()
    plus, minus = [KEY, bytes(32)], [b"\xff" * 32]
    for key, sign in [(KEY, 1), (bytes(32), 1), (b"\xff" * 32, -1)]:
        stream = np.frombuffer(keystream(key, expected.nbytes), dtype)
        expected = expected + stream if sign == 1 else expected - stream
    add_keystreams(words, plus, minus)
    np.testing.assert_array_equal(words, expected)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_the_stream(threads: int) -> None:
    length = 9 * CHUNK_BYTES // 4 + 5
    one, many = np.zeros(length, "<u4"), np.zeros(length, "<u4")
    keys = [os.urandom(32) for _ in range(3)]
    add_keystreams(one, keys[:2], keys[2:])
    add_keystreams(many, keys[:2], keys[2:], threads=threads)
    np.testing.assert_array_equal(one, many)


def test_more_keys_than_one_batch_cancel() -> None:
    keys = [i.to_bytes(32, "big") for i in range(300)]
    words = np.arange(10, dtype="<u4")
    add_keystreams(words, keys)
    assert not np.array_equal(words, np.arange(10))
    add_keystreams(words, (), keys)
    np.testing.assert_array_equal(words, np.arange(10))


def test_mask_streams_refuse_what_they_cannot_fill() -> None:
    for words in (
        np.zeros(4, np.int32),
        np.zeros((2, 2), "<u4"),
        np.zeros(8, "<u4")[::2],
        np.frombuffer(bytes(8), "<u4"),
    ):
        with pytest.raises(ConfigError, match="contiguous"):
            add_keystreams(words, [KEY])
    with pytest.raises(ConfigError, match="mask key"):
        add_keystreams(np.zeros(4, "<u4"), [bytes(16)])
    with pytest.raises(ConfigError, match="threads"):
        add_keystreams(np.zeros(4, "<u4"), [KEY], threads=0)


def test_a_tag_tells_every_byte_and_key() -> None:
    data = bytes(range(100))
    assert len(tag(KEY, data)) == 16
    others = {tag(KEY, data[:i] + b"\xff" + data[i + 1 :]) for i in range(100)} | {
        tag(KEY, data[:-1]),
        tag(bytes(32), data),
    }
    assert len(others) == 102
    assert tag(KEY, memoryview(data)) == tag(KEY, data) not in others
