"""Flower's own floor: the seconds of one plain message to every node and back, with nothing of privfl in it."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

MESSAGES = 3


def measure(grid: Grid, nodes: Sequence[int], path: Path) -> None:
    """Write the seconds of each of three messages through Flower's own `send_and_receive`."""
    seconds = []
    for _ in range(MESSAGES):
        content = RecordDict({"privfl": ConfigRecord({"hello": 1})})
        messages = [Message(content=content, message_type="train", dst_node_id=node) for node in nodes]
        began = time.monotonic()
        replies = list(grid.send_and_receive(messages, timeout=300))
        if len(replies) == len(nodes):
            seconds.append(time.monotonic() - began)
    path.write_text(json.dumps(seconds))
