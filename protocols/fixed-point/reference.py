"""The fixed-point encoding of SPEC.md, slow and readable, over Python's own integers and fractions.

Run it to write vectors/*.json. It never imports privfl, and privfl never imports it.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    pass


class CapacityError(ConfigError):
    pass


class WireError(ValueError):
    pass


# --- section 4: encode ------------------------------------------------------------------------------------------


def check(scale: float, *positive: float) -> None:
    if not 2.0**-512 <= scale <= 2.0**512:
        raise ConfigError("scale")
    if any(not (math.isfinite(value) and value > 0) for value in positive):
        raise ConfigError("must be positive and finite")


def scaled(x: list[float], scale: float) -> list[float]:
    values = [v * scale for v in x]
    if not all(math.isfinite(v) and abs(v) < 2.0**63 for v in values):
        raise ConfigError("an entry is not finite, or 2^63 units or more")
    return values


def round_all(values: list[float], draws: list[float] | None) -> list[int]:
    if draws is None:
        return [round(v) for v in values]  # Python rounds halves to even
    return [math.floor(v + r) for v, r in zip(values, draws, strict=True)]


def square(z: list[int]) -> int:
    return sum(v * v for v in z)


def encode(x: list[float], scale: float, max_norm: float, draws: list[list[float]] | None = None) -> list[int]:
    check(scale, max_norm)
    limit = math.floor((Fraction(scale) * Fraction(max_norm)) ** 2)
    factor = 1.0
    for attempt in (1, 2, 3, 4):
        z = round_all(scaled(x, scale * factor), draws[attempt - 1] if draws else None)
        total = square(z)
        if total <= limit:
            return z
        spare = attempt / max(8.0, math.sqrt(limit))
        factor *= math.sqrt(limit / total) * (1.0 - spare)
    away = square([math.ceil(abs(v)) for v in scaled(x, scale)])
    factor = math.sqrt(limit / away) * (1.0 - 2.0**-40)
    return [math.trunc(v) for v in scaled(x, scale * factor)]


def encode_entries(x: list[float], scale: float, max_abs: float) -> list[int]:
    check(scale, max_abs)
    top = bound(scale, max_abs)
    if top >= 1 << 63:
        raise ConfigError("bound")
    return [max(-top, min(top, z)) for z in round_all(scaled(x, scale), None)]


# --- section 5: capacity, sensitivity, fit ----------------------------------------------------------------------


def bound(scale: float, max_abs: float) -> int:
    return math.floor(Fraction(scale) * Fraction(max_abs))


def sensitivity(scale: float, clip_norm: float) -> float:
    product = scale * clip_norm
    return product if Fraction(product) >= Fraction(scale) * Fraction(clip_norm) else math.nextafter(product, math.inf)


def capacity(bits: int, scale: float, clip_norm: float, cohort: int, noise_stddev: float) -> int:
    """The bits that would suffice, at most 64."""
    need = cohort * Fraction(scale) * Fraction(clip_norm) + 20 * Fraction(noise_stddev)
    enough = next(b for b in range(1, 5000) if need < 1 << (b - 1))
    if enough > bits:
        raise CapacityError(f"{enough} bits would suffice")
    return enough


def fit(bits: int, clip_norm: float, cohort: int, multiplier: float) -> float:
    room = cohort * Fraction(clip_norm) + 20 * Fraction(clip_norm * multiplier)
    exponents = [k for k in range(-512, 513) if Fraction(2) ** k * room < 1 << (bits - 1)]
    if not exponents:
        raise ConfigError("no scale is small enough")
    return math.ldexp(1.0, exponents[-1])


# --- sections 6 and 7: words, decode, packing -------------------------------------------------------------------


def reduce(z: list[int], bits: int) -> list[int]:
    return [v % (1 << bits) for v in z]


def center(words: list[int], bits: int) -> list[int]:
    return [w if w < 1 << (bits - 1) else w - (1 << bits) for w in words]


def decode(total: list[int], scale: float) -> list[float]:
    return [float(t) * (1.0 / scale) for t in total]


def width(bits: int) -> int:
    return 16 if bits <= 16 else 32 if bits <= 32 else 64


def pack(words: list[int], bits: int, dense: bool) -> bytes:
    step = bits if dense else width(bits)
    number = sum(word << (step * i) for i, word in enumerate(words))
    return number.to_bytes(-(-len(words) * step // 8), "little")


def unpack(data: bytes, length: int, bits: int, dense: bool) -> list[int]:
    step = bits if dense else width(bits)
    if len(data) != -(-length * step // 8):
        raise WireError("length")
    number = int.from_bytes(data, "little")
    if number >> (step * length):
        raise WireError("padding")
    words = [(number >> (step * i)) % (1 << step) for i in range(length)]
    if any(word >= 1 << bits for word in words):
        raise WireError("not reduced")
    return words


# --- the vectors ------------------------------------------------------------------------------------------------


def stream(label: str) -> Any:
    """Public pseudo-random 32-bit words: SHA-256 of label and counter."""
    counter = 0
    while True:
        block = hashlib.sha256(f"privfl fixed-point vectors {label} {counter}".encode()).digest()
        yield from struct.unpack("<8I", block)
        counter += 1


def reals(label: str, count: int, size: float) -> list[float]:
    source = stream(label)
    return [size * (next(source) / 2**31 - 1.0) for _ in range(count)]


def as_binary32(x: list[float]) -> list[float]:
    return [struct.unpack("<f", struct.pack("<f", v))[0] for v in x]


def hexes(x: list[float]) -> list[str]:
    return [v.hex() for v in x]


def attempt(function: Any, *arguments: Any) -> dict[str, Any]:
    try:
        return {"result": function(*arguments)}
    except (ConfigError, WireError) as error:
        return {"error": type(error).__name__}


def norm(x: list[float]) -> float:
    return math.sqrt(math.fsum(v * v for v in x))


def encode_cases() -> list[dict[str, Any]]:
    uniform = reals("uniform", 50, 1.0)
    narrow = as_binary32(reals("narrow", 40, 0.01))
    inputs: list[tuple[str, list[float], str, float, float]] = [
        ("inside the bound", uniform, "binary64", 2.0**16, 100.0),
        ("ties", [0.5, 1.5, 2.5, -0.5, -1.5, 0.25], "binary64", 1.0, 100.0),
        ("at the bound", uniform, "binary64", 2.0**10, norm(uniform)),
        ("binary32 at the bound", narrow, "binary32", 2.0**14, norm(narrow)),
        ("a scale that is no power of two", uniform, "binary64", 12345.678, norm(uniform)),
        ("just above a half", [0.5 + 2.0**-40] * 64, "binary64", 1.0, 4.0),
        ("far above the bound", [300.0, -400.0, 1.0], "binary64", 16.0, 1.0),
        ("toward zero finally", [1.9] * 600, "binary64", 1.0, math.sqrt(2399)),
        ("limit 1", [0.8, 0.61], "binary64", 1.0, 1.0),
        ("limit 0", [0.9, -0.9], "binary64", 1.0, 0.9),
        ("one below an integer square", [10.0], "binary64", 1.0, math.sqrt(99)),
        ("64-bit integers", [3e18, -4e18, 1.0], "binary64", 1.0, 4.9e18),
        ("the largest integer", [2.0**63 - 1024, -(2.0**63 - 1024)], "binary64", 1.0, 2.0**70),
        ("subnormal", [5e-324, 1e-310], "binary64", 2.0**512, 1.0),
        ("tiny values, huge scale", [1e-150], "binary64", 1e151, 9.9e-151),
        ("minus zero", [-0.0, -0.3], "binary64", 1.0, 1.0),
        ("empty", [], "binary64", 1.0, 1.0),
        ("binary16", [0.0999755859375, -65504.0], "binary16", 4.0, 1e6),
        ("not a number", [0.0, math.nan], "binary64", 1.0, 1.0),
        ("infinite", [-math.inf], "binary32", 1.0, 1.0),
        ("beyond 2^63", [2.0**63], "binary64", 1.0, 1e30),
        ("overflow while scaling", [1e300], "binary64", 1e10, 1.0),
        ("no bound", [1.0], "binary64", 1.0, 0.0),
        ("a scale too small", [1.0], "binary64", 2.0**-513, 1.0),
    ]
    cases = []
    for name, x, kind, scale, max_norm in inputs:
        case = {"name": name, "type": kind, "x": hexes(x), "scale": scale.hex(), "max_norm": max_norm.hex()}
        cases.append(case | attempt(encode, x, scale, max_norm))
    return cases


def stochastic_cases() -> list[dict[str, Any]]:
    cases = []
    for name, x, scale, max_norm in [
        ("inside the bound", reals("stochastic", 30, 4.0), 3.0, 100.0),
        ("at the bound", reals("stochastic at", 30, 4.0), 1.0, norm(reals("stochastic at", 30, 4.0))),
        ("toward zero finally", [0.02] * 400, 1.0, 1.0),
        ("integers stay", [1.0, -2.0, 0.0, 2.0**28], 1.0, 1e9),
    ]:
        source = stream("draws " + name)
        draws = [[(next(source) >> 8) / 2**24 for _ in x] for _ in range(4)]
        case = {"name": name, "type": "binary64", "x": hexes(x), "scale": scale.hex(), "max_norm": max_norm.hex()}
        cases.append(case | {"draws": [hexes(d) for d in draws]} | attempt(encode, x, scale, max_norm, draws))
    return cases


def entry_cases() -> list[dict[str, Any]]:
    cases = []
    for x, scale, max_abs in [([0.26, 3.0, -7.0], 10.0, 1.55), ([0.5, 0.1], 10.0, 0.3), ([1.0], 1.0, 1e30)]:
        case = {"x": hexes(x), "scale": scale.hex(), "max_abs": max_abs.hex()}
        cases.append(case | attempt(encode_entries, x, scale, max_abs))
    return cases


def parameter_cases() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []
    for scale, value in [(10.0, 0.1), (10.0, 0.3), (3.3, 1 / 3), (2.0**20, 1.5), (1e5 / 7, 7.7)]:
        given = {"scale": scale.hex(), "value": value.hex()}
        cases.append({"of": "bound"} | given | {"result": bound(scale, value)})
        cases.append({"of": "sensitivity"} | given | {"result": sensitivity(scale, value).hex()})
    for bits, scale, clip, cohort, noise in [
        (16, 1.0, 1.0, 2**15 - 1, 0.0),
        (16, 1.0, 1.0, 2**15, 0.0),
        (32, 2.0**16, 1.0, 1000, 5e4),
        (20, 2.0**16, 1.0, 1000, 5e4),
        (64, 2.0**62, 1.0, 1, 0.0),
        (64, 2.0**62, 1.0, 2, 0.0),
    ]:
        given = {"bits": bits, "scale": scale.hex(), "clip_norm": clip.hex(), "cohort": cohort}
        found = attempt(capacity, bits, scale, clip, cohort, noise)
        cases.append({"of": "capacity"} | given | {"noise_stddev": noise.hex()} | found)
    for bits, clip, cohort, multiplier in [
        (32, 1.0, 100, 1.0),
        (64, 1.0, 1, 0.0),
        (64, 1.5, 7, 1.1),
        (8, 3.7e9, 3, 1e-3),
        (54, 1e-9, 1000, 0.3),
        (16, 1e300, 5, 0.0),
    ]:
        given = {"bits": bits, "clip_norm": clip.hex(), "cohort": cohort, "noise_multiplier": multiplier.hex()}
        found = attempt(lambda *how: fit(*how).hex(), bits, clip, cohort, multiplier)
        cases.append({"of": "fit"} | given | found)
    return cases


def ring_cases() -> list[dict[str, Any]]:
    cases = []
    for bits in range(8, 65):
        half = 1 << (bits - 1)
        z = [v for v in (0, 1, -1, half - 1, -half, half, -half - 1, 2**63 - 1, -(2**63)) if -(2**63) <= v < 2**63]
        words = reduce(z, bits)
        packed = {"native": pack(words, bits, False).hex(), "dense": pack(words, bits, True).hex()}
        cases.append({"bits": bits, "z": z, "words": words, "centered": center(words, bits)} | packed)
    return cases


def unpack_cases() -> list[dict[str, Any]]:
    cases = []
    for name, data, length, bits, dense in [
        ("good, native", "ff010000", 2, 9, False),
        ("good, dense", "ff0100", 2, 9, True),
        ("not reduced", "00020000", 2, 9, False),
        ("padding", "ff0104", 2, 9, True),
        ("last padding bit", "ff0180", 2, 9, True),
        ("too short, native", "ff0100", 2, 9, False),
        ("too long, dense", "ff010000", 2, 9, True),
        ("empty", "", 0, 9, True),
        ("empty except for a byte", "00", 0, 9, True),
        ("64 bits", "ff" * 16, 2, 64, True),
    ]:
        case = {"name": name, "data": data, "length": length, "bits": bits, "dense": dense}
        cases.append(case | attempt(unpack, bytes.fromhex(data), length, bits, dense))
    return cases


def decode_cases() -> list[dict[str, Any]]:
    cases = []
    for total, scale in [
        ([0, 1, -3, 2**31, -(2**31)], 2.0**16),
        ([1, 7, 2**53 + 1, 2**63 - 1, -(2**63)], 12345.678),
        ([], 1.0),
    ]:
        cases.append({"total": total, "scale": scale.hex(), "result": hexes(decode(total, scale))})
    return cases


def files() -> dict[str, str]:
    """Every vector file by name, as text."""
    made = {
        "encode-nearest": encode_cases(),
        "encode-stochastic": stochastic_cases(),
        "encode-entries": entry_cases(),
        "parameters": parameter_cases(),
        "ring": ring_cases(),
        "unpack": unpack_cases(),
        "decode": decode_cases(),
    }
    return {
        f"{name}.json": json.dumps({"version": 1, "operation": name, "cases": cases}, indent=1) + "\n"
        for name, cases in made.items()
    }


if __name__ == "__main__":
    folder = Path(__file__).parent / "vectors"
    folder.mkdir(exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text)
