"""privfl's codec and ring against protocols/fixed-point, whose reference shares no code with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import references

from privfl.codec import FixedPoint
from privfl.errors import CapacityError, ConfigError, WireError
from privfl.ring import Ring

FOLDER = Path(__file__).parents[2] / "protocols" / "fixed-point"
ERRORS = {"ConfigError": ConfigError, "CapacityError": CapacityError, "WireError": WireError}
TYPES = {"binary16": np.float16, "binary32": np.float32, "binary64": np.float64}


def cases(name: str) -> list[Any]:
    loaded = json.loads((FOLDER / "vectors" / f"{name}.json").read_text())
    return [
        pytest.param(case, id=f"{case.get('name', case.get('of', case.get('bits', '')))}-{i}")
        for i, case in enumerate(loaded["cases"])
    ]


def real(text: str) -> float:
    return float.fromhex(text)


def vector(case: dict[str, Any]) -> Any:
    return np.array([real(v) for v in case["x"]], TYPES[case.get("type", "binary64")])


def expect(case: dict[str, Any], function: Any) -> None:
    if "error" in case:
        with pytest.raises(ERRORS[case["error"]]) as caught:
            function()
        assert type(caught.value).__name__ == case["error"]
    else:
        assert function() == case["result"]


class Draws:
    """A generator that has nothing but the draws of a vector to give."""

    def __init__(self, tries: list[list[str]]) -> None:
        self.left = [np.array([real(v) for v in draws], np.float32) for draws in tries]

    def random(self, count: int, dtype: Any) -> Any:
        draws = self.left.pop(0)
        assert (len(draws), dtype) == (count, np.float32)
        return draws


def test_the_reference_writes_these_files() -> None:
    made = references.load("fixed-point", "reference").files()
    kept = {file.name: file.read_text() for file in (FOLDER / "vectors").iterdir()}
    assert made == kept


@pytest.mark.parametrize("case", cases("encode-nearest"))
def test_encode_nearest(case: dict[str, Any]) -> None:
    def encode() -> list[int]:
        codec = FixedPoint(real(case["scale"]), Ring(64))
        return codec.encode(vector(case), max_norm=real(case["max_norm"])).tolist()

    expect(case, encode)


@pytest.mark.parametrize("case", cases("encode-stochastic"))
def test_encode_stochastic(case: dict[str, Any]) -> None:
    codec = FixedPoint(real(case["scale"]), Ring(64))
    rng: Any = Draws(case["draws"])
    values = codec.encode(vector(case), max_norm=real(case["max_norm"]), rounding="stochastic", rng=rng)
    assert values.tolist() == case["result"]


@pytest.mark.parametrize("case", cases("encode-entries"))
def test_encode_entries(case: dict[str, Any]) -> None:
    codec = FixedPoint(real(case["scale"]), Ring(64))
    expect(case, lambda: codec.encode_entries(vector(case), max_abs=real(case["max_abs"])).tolist())


@pytest.mark.parametrize("case", cases("parameters"))
def test_parameters(case: dict[str, Any]) -> None:
    if case["of"] == "bound":
        assert FixedPoint(real(case["scale"]), Ring(32)).bound(real(case["value"])) == case["result"]
    elif case["of"] == "sensitivity":
        assert FixedPoint(real(case["scale"]), Ring(32)).sensitivity(real(case["value"])) == real(case["result"])
    elif case["of"] == "capacity":
        how = {
            "clip_norm": real(case["clip_norm"]),
            "cohort": case["cohort"],
            "noise_stddev": real(case["noise_stddev"]),
        }
        scale = real(case["scale"])
        if "error" in case:
            with pytest.raises(CapacityError):
                FixedPoint(scale, Ring(case["bits"])).check_capacity(**how)
        else:
            FixedPoint(scale, Ring(max(8, case["result"]))).check_capacity(**how)
            if case["result"] > 8:
                with pytest.raises(CapacityError, match=f" {case['result']} bits would suffice"):
                    FixedPoint(scale, Ring(case["result"] - 1)).check_capacity(**how)
    else:
        how = {"clip_norm": real(case["clip_norm"]), "cohort": case["cohort"]}
        multiplier = real(case["noise_multiplier"])
        ring = Ring(case["bits"])

        def fit() -> str:
            return FixedPoint.fit(ring, **how, noise_multiplier=multiplier).scale.hex()

        expect(case, fit)


@pytest.mark.parametrize("case", cases("ring"))
def test_ring(case: dict[str, Any]) -> None:
    ring = Ring(case["bits"])
    words = ring.reduce(np.array(case["z"], np.int64))
    assert words.tolist() == case["words"]
    assert ring.center(words).tolist() == case["centered"]
    for form in ("native", "dense"):
        assert ring.pack(words, dense=form == "dense").hex() == case[form]
        assert ring.unpack(bytes.fromhex(case[form]), len(words), dense=form == "dense").tolist() == case["words"]


@pytest.mark.parametrize("case", cases("unpack"))
def test_unpack(case: dict[str, Any]) -> None:
    data, ring = bytes.fromhex(case["data"]), Ring(case["bits"])
    expect(case, lambda: ring.unpack(data, case["length"], dense=case["dense"]).tolist())


@pytest.mark.parametrize("case", cases("decode"))
def test_decode(case: dict[str, Any]) -> None:
    decoded = FixedPoint(real(case["scale"]), Ring(64)).decode(np.array(case["total"], np.int64))
    assert [v.hex() for v in decoded.tolist()] == case["result"]
