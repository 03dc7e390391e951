"""A masked sum over plain TCP sockets: one server, five clients in processes of their own, one killed mid-round.

Run it as `python examples/embed_masked_sum.py`. Frames are a u32 length and that many bytes; the rest is privfl.secagg.
"""

import multiprocessing as mp
import os
import socket
import struct

import numpy as np

from privfl.errors import RemoteProtocolError
from privfl.secagg import Credentials, MaskedSum, MemoryDirectory, Ring, SumTask, generate_identities

CLIENTS = range(5)
TASK = SumTask(b"round 1 of my job", tuple(CLIENTS), 3, 8, Ring(32), 1_000_000)
LARGEST = 1 << 20  # bytes of a message: a length is untrusted input, and memory is set aside for it
SECONDS = 20.0  # how long the server waits for a message before it counts its sender as a dropout


def send(link: socket.socket, message: bytes) -> None:
    link.sendall(struct.pack("<I", len(message)) + message)


def receive(link: socket.socket) -> bytes:
    size = struct.unpack("<I", link.recv(4, socket.MSG_WAITALL).ljust(4, b"\0"))[0]
    message = link.recv(size, socket.MSG_WAITALL) if size <= LARGEST else b""
    if not message:
        raise ConnectionError("the other side is gone, or announces too much")
    return message


def run_client(port: int, own: Credentials, directory: MemoryDirectory, vector: np.ndarray) -> None:
    session = MaskedSum(directory).client(TASK, own.client, vector, credentials=own)
    with socket.create_connection(("127.0.0.1", port)) as link:
        send(link, struct.pack("<I", own.client))  # a real transport would authenticate this
        send(link, session.start())
        for step in range(1, 5):
            message = receive(link)
            if own.client == 2 and step == 2:
                os.kill(os.getpid(), 9)  # the others have masked their vectors against this one's key already
            send(link, session.receive(message))


def run_server(listener: socket.socket, directory: MemoryDirectory) -> tuple[np.ndarray, list[int]]:
    server = MaskedSum(directory).server(TASK)
    links = {}
    for _ in CLIENTS:
        link, _ = listener.accept()
        link.settimeout(SECONDS)
        links[struct.unpack("<I", receive(link))[0]] = link
    while server.result is None:
        for client in sorted(server.awaiting):
            try:
                server.receive(client, receive(links[client]))
            except (OSError, RemoteProtocolError) as error:
                server.drop(client)
                print(f"client {client} has dropped out: {error}")
        for client, message in server.advance().items():
            send(links[client], message)
    for link in links.values():
        link.close()
    return server.result.total, sorted(server.result.survivors)


if __name__ == "__main__":
    credentials, keys = generate_identities(CLIENTS)  # in production: own keys, and a third party's directory
    vectors = {c: np.arange(8) * (c + 1) for c in CLIENTS}
    with socket.create_server(("127.0.0.1", 0)) as door:
        start, port = mp.get_context("spawn").Process, door.getsockname()[1]
        processes = [start(target=run_client, args=(port, credentials[c], keys, vectors[c])) for c in CLIENTS]
        for process in processes:
            process.start()
        total, survivors = run_server(door, keys)
    for process in processes:
        process.join()
    print(f"sum over {survivors}: {total}, as in the clear")
    assert np.array_equal(total, sum(vectors[c] for c in survivors))
