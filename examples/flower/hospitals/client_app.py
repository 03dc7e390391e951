"""The app that runs at a hospital's node: a relay of bytes. The hospital's own agent holds keys, policy and data."""

import socket
import struct

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.evaluate()
@app.train()
def carry(message: Message, context: Context) -> Message:
    """Carry one frame to the agent's socket, and its answer back."""
    try:
        record = message.content["privfl"]
        if "hello" in record:
            answer = ConfigRecord({"client": int(context.node_config["client"])})
        else:
            path = str(context.node_config["socket"])
            answer = ConfigRecord({"frame": ask(path, record["frame"], record.get("model", b""))})
        return Message(RecordDict({"privfl": answer}), reply_to=message)
    except Exception:  # noqa: BLE001 - the agent's own log states the reason
        return Message(Error(0, "the site did not answer"), reply_to=message)


def ask(path: str, frame: bytes, model: bytes) -> bytes:
    """Send one request to the agent, and return its answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        agent.settimeout(600)
        agent.connect(path)
        agent.sendall(struct.pack("<IQ", len(frame), len(model)) + frame + model)
        with agent.makefile("rb") as stream:
            (length,) = struct.unpack("<I", stream.read(4))
            answer = stream.read(length)
    if len(answer) != length:
        raise ConnectionError("the agent closed the connection")
    return answer
