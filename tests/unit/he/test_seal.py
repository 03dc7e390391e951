"""The door to SEAL: its self-test, its layout, and every system that differs."""

import ctypes
import sys
import types
import zlib

import pytest

from privfl.errors import ConfigError, MissingExtra
from privfl.he import plan_ckks, seal
from privfl.he.exchange import ExchangeFile
from privfl.he.keys import secret_polynomial
from privfl.he.packing import to_slots
from privfl.he.plan import PRIMES
from privfl.ring import Ring

KEY = bytes(range(32))


@pytest.mark.parametrize(("degree", "bits"), list(PRIMES))
def test_the_self_test_knows_this_tenseal(degree: int, bits: int) -> None:
    seal.self_test(degree, bits)


def test_the_transform_is_linear_over_small_coefficients() -> None:
    """-1 must become q - 1, not a byte of it."""
    parts = seal._Parameters(2048, PRIMES[2048, 40], 128)
    secret = secret_polynomial(KEY, plan_ckks(10, 2, Ring(23)))
    both = parts.transform(secret) + parts.transform(-secret)
    assert set(both.tolist()) == {parts.modulus}


def test_another_layout_or_generator_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = seal._Parameters(2048, PRIMES[2048, 40], 128)
    pinned = seal._PINNED[2048, 40]
    parts.test(pinned)
    with pytest.raises(ConfigError, match=r"use tenseal 0\.3\.15 to 0\.3\.18"):
        parts.test("0" * 64)
    for name, value in (
        ("_front", lambda scale: bytes(97)),
        ("_generator", lambda: bytes(17)),
        ("_written", lambda thing, file: b"short"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(parts, name, value)
            with pytest.raises(ConfigError, match="lays out"):
                parts.test(pinned)
    with monkeypatch.context() as patch:
        patch.setattr(seal, "to_slots", lambda values, degree: to_slots(values[::-1], degree))
        with pytest.raises(ConfigError, match="lays out"):
            parts.test(pinned)
    with monkeypatch.context() as patch:
        patch.setattr(ExchangeFile, "read", lambda self: bytes(100))
        with pytest.raises(ConfigError, match="lays out"):
            parts.test(pinned)
    parts.test(pinned)


def test_parameters_that_seal_refuses() -> None:
    with pytest.raises(ConfigError, match="SEAL refuses"):
        seal._Parameters(1024, PRIMES[2048, 40], 128)


def test_a_missing_tenseal_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenseal.sealapi.util", None)
    with pytest.raises(MissingExtra, match=r"privfl\[he\]"):
        seal._sealapi()


def test_what_seal_compressed_is_inflated() -> None:
    buffer = ctypes.create_string_buffer(100)
    assert seal._inflate(0, b"--as it is", 2, buffer) == b"as it is"
    assert seal._inflate(1, b"--" + zlib.compress(b"packed"), 2, buffer) == b"packed"
    with pytest.raises(ValueError, match="Zstandard"):
        seal._inflate(2, b"--nonsense", 2, buffer)


def test_a_build_that_hides_zstandard_falls_back_to_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda path: types.SimpleNamespace())
    package = types.ModuleType("zstandard")
    package.decompress = lambda data: data[::-1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "zstandard", package)
    decode = seal._zstandard.__wrapped__()
    assert decode(b"abc", ctypes.create_string_buffer(10)) == b"cba"
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtra, match="zstandard"):
        seal._zstandard.__wrapped__()


def test_a_cipher_does_not_show_its_key() -> None:
    plan = plan_ckks(10, 2, Ring(23))
    assert repr(seal.SealCipher(plan, secret_polynomial(KEY, plan))) == "SealCipher(degree=2048, prime_bits=40)"
