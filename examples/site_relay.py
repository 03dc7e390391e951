"""The relay between an engine's app and a site's agent. It needs only Python: copy it into the app."""

import socket
import struct


class Relay:
    """Carries frames to the agent's Unix socket; it parses nothing and holds nothing."""

    def __init__(self, path: str, timeout: float = 3600.0) -> None:
        self.path, self.timeout = path, timeout

    def answer(self, frame: bytes, model: bytes = b"") -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.connect(self.path)  # waits in the queue of a busy agent
            agent.settimeout(self.timeout)
            agent.sendall(struct.pack("<IQ", len(frame), len(model)) + frame + model)
            (length,) = struct.unpack("<I", self.take(agent, 4))
            return self.take(agent, length)

    def take(self, agent: socket.socket, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = agent.recv(min(1 << 20, count - len(data)))
            if not piece:
                raise ConnectionError("the agent closed the connection")
            data += piece
        return bytes(data)
