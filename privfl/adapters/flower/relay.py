"""The client's half in front of a site's own agent: bytes in, bytes out, and nothing worth stealing in the app.

The relay parses nothing, holds no key and sees no example. It is small enough to be copied into an app in place of an
import; the agent decides what leaves.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, Error, Message, RecordDict

from privfl.fl.frames import SiteEndpoint


def relay(message: Message, agent: SiteEndpoint, client: int) -> Message:
    """Answer one message of `SecureGrid` through the agent of this node's site.

    Args:
        message: The message that arrived, of any type.
        agent: The agent, behind its socket.
        client: The site's identity, from the node's configuration. A wrong one only keeps this node out.

    Returns:
        The agent's answer, or one fixed error.
    """
    try:
        record = message.content["privfl"]
        if "hello" in record:
            return Message(RecordDict({"privfl": ConfigRecord({"client": client})}), reply_to=message)
        answer = agent.answer(bytes(record["frame"]), bytes(record.get("model", b"")))
        return Message(RecordDict({"privfl": ConfigRecord({"frame": answer})}), reply_to=message)
    except Exception:  # noqa: BLE001 - the agent's own log states the reason
        return Message(Error(0, "the site did not answer"), reply_to=message)
