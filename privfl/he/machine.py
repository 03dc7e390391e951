"""The transition tables of both parties, as data: the sessions run on them, and tests and SPEC.md read them.

protocols/ckks-sum/machine.toml states the same for readers of other languages; a test compares the two.
"""

from __future__ import annotations

from typing import Final

from privfl.he.messages import (
    Advertise,
    AskDealer,
    AskOpener,
    Consent,
    Deal,
    Dealt,
    Frame,
    Opened,
    Survivors,
    UseKey,
)
from privfl.sums.session import Transition, TransitionTable

CLIENT: Final[TransitionTable] = (
    Transition("new", None, Advertise, "advertised"),
    Transition("advertised", AskDealer, Deal, "dealing"),
    Transition("advertised", Dealt, Frame, "sent"),
    Transition("advertised", UseKey, Frame, "sent"),
    Transition("dealing", Dealt, Frame, "sent"),
    Transition("sent", Survivors, Consent, "consented"),
    Transition("consented", AskOpener, Opened, "opened"),
)
"""A client's table. Every error in an accepted step leads to "aborted", for good."""

SERVER: Final[TransitionTable] = (
    Transition("advertise", Advertise, UseKey, "frame"),
    Transition("advertise", Advertise, AskDealer, "deal"),
    Transition("deal", Deal, AskDealer, "deal"),
    Transition("deal", Deal, Dealt, "frame"),
    Transition("frame", Frame, Survivors, "consent"),
    Transition("consent", Consent, AskOpener, "open"),
    Transition("open", Opened, AskOpener, "open"),
    Transition("open", Opened, None, "done"),
)
"""The server's table. Too few clients lead to "closed", from every step, for good."""
