"""Frames: one form, one signer, one addressee; and nothing is parsed of bytes that do not verify."""

from dataclasses import replace

import numpy as np
import pytest
from builders import a_plan

from privfl.crypto import SigningKey
from privfl.errors import RemoteProtocolError, WireError
from privfl.fl.frames import (
    REFUSAL,
    Down,
    Invitation,
    Up,
    charter_of,
    frame_hash,
    model_from_bytes,
    model_to_bytes,
    open_down,
    open_up,
    seal_down,
    seal_up,
)
from privfl.sums import PlainSum

SERVER_KEY, SITE_KEY, OTHER_KEY = (SigningKey(bytes([value]) * 32) for value in (1, 2, 3))
CHARTER, OTHER_CHARTER = b"c" * 32, b"d" * 32
DOWN = Down(round=3, attempt=1, step=2, client=7, expires=1_900_000_000, body=b"message")
FRAME = seal_down(DOWN, SERVER_KEY, charter=CHARTER)
UP = Up(round=3, attempt=1, step=2, request=frame_hash(FRAME), body=b"answer", receipts=())
ANSWER = seal_up(UP, SITE_KEY, charter=CHARTER, me=7)


def test_a_frame_and_its_answer_come_back_as_they_were_sealed() -> None:
    opened = open_down(FRAME, SERVER_KEY.public, charter=CHARTER, me=7)
    assert replace(opened, body=bytes(opened.body)) == DOWN
    assert charter_of(FRAME) == charter_of(ANSWER) == CHARTER
    up = open_up(ANSWER, SITE_KEY.public, charter=CHARTER, client=7, request=FRAME)
    assert (bytes(up.body), up.request) == (b"answer", frame_hash(FRAME))
    assert seal_down(DOWN, SERVER_KEY, charter=CHARTER) == FRAME  # the same content, the same bytes


@pytest.mark.parametrize("at", range(0, len(FRAME), 7))
def test_any_altered_byte_of_a_frame_is_refused(at: int) -> None:
    altered = bytearray(FRAME)
    altered[at] ^= 1
    with pytest.raises((WireError, RemoteProtocolError)):
        open_down(bytes(altered), SERVER_KEY.public, charter=CHARTER, me=7)


@pytest.mark.parametrize("at", range(0, len(ANSWER), 7))
def test_any_altered_byte_of_an_answer_is_blamed_on_its_site_alone(at: int) -> None:
    altered = bytearray(ANSWER)
    altered[at] ^= 1
    with pytest.raises(RemoteProtocolError) as caught:
        open_up(bytes(altered), SITE_KEY.public, charter=CHARTER, client=7, request=FRAME)
    assert caught.value.sender == 7


def test_a_frame_of_another_key_charter_site_or_kind_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="does not verify"):
        open_down(FRAME, OTHER_KEY.public, charter=CHARTER, me=7)
    with pytest.raises(WireError, match="charter"):
        open_down(FRAME, SERVER_KEY.public, charter=OTHER_CHARTER, me=7)
    with pytest.raises(WireError, match="client 7"):
        open_down(FRAME, SERVER_KEY.public, charter=CHARTER, me=8)
    with pytest.raises(WireError, match="kind"):
        open_down(ANSWER, SERVER_KEY.public, charter=CHARTER, me=7)
    with pytest.raises(WireError, match="bytes"):
        open_down(FRAME, SERVER_KEY.public, charter=CHARTER, me=7, max_bytes=100)
    with pytest.raises(WireError):
        open_down(FRAME[:20], SERVER_KEY.public, charter=CHARTER, me=7)


def test_an_answer_to_another_frame_and_a_refusal_drop_the_site() -> None:
    other = seal_down(replace(DOWN, step=3), SERVER_KEY, charter=CHARTER)
    with pytest.raises(RemoteProtocolError, match="another frame"):
        open_up(ANSWER, SITE_KEY.public, charter=CHARTER, client=7, request=other)
    with pytest.raises(RemoteProtocolError, match="refuses") as caught:
        open_up(REFUSAL, SITE_KEY.public, charter=CHARTER, client=7, request=FRAME)
    assert caught.value.sender == 7
    forged = seal_up(UP, SERVER_KEY, charter=CHARTER, me=7)  # a relay that holds some key, but not the site's
    with pytest.raises(RemoteProtocolError, match="does not verify"):
        open_up(forged, SITE_KEY.public, charter=CHARTER, client=7, request=FRAME)


def test_an_invitation_has_one_form() -> None:
    invitation = Invitation(plan=b"plan", nonce=bytes(16), issued=1, software=b"0.1", receipts=(b"one", b"two"))
    data = invitation.to_bytes()
    again = Invitation.from_bytes(data)
    assert again.to_bytes() == data
    with pytest.raises(WireError):
        Invitation.from_bytes(data + b"x")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_model_travels_as_raw_bytes_and_only_the_plans_own_is_taken(dtype: str) -> None:
    model = np.arange(4, dtype=dtype)
    plan = a_plan(PlainSum(), model)
    data = model_to_bytes(model)
    np.testing.assert_array_equal(model_from_bytes(data, plan, 0), model)
    for wrong in (
        data[:-1],
        data + b"x",
        bytes(len(data)),
        model_to_bytes(model.astype("f8" if dtype == "f4" else "f4")),
    ):
        with pytest.raises(WireError):
            model_from_bytes(wrong, plan, 0)
