"""The agent: a site behind a Unix socket, for a relay that runs as another user and holds nothing.

One connection carries one request and one reply, all integers little-endian:

    request   frame length u32 | model length u64 | frame | model
    reply     length u32 | frame

The socket has mode 0660 in a folder of mode 0750. The kernel states who connects, and only the users of `relay_uids`
may. Connections, bytes, reading time and log are limited. A frame that belongs to no round in progress never takes the
last place, so a flood cannot keep a round from going on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from privfl.errors import ConfigError, StateError, WireError
from privfl.fl.frames import REFUSAL
from privfl.site.policy import AgentLimits
from privfl.site.site import Site

HEAD: Final = struct.Struct("<IQ")
LENGTH: Final = struct.Struct("<I")
FOLDER_MODE: Final = 0o750
SOCKET_MODE: Final = 0o660

_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid of the peer: struct ucred of Linux
_PIECE: Final = 1 << 20
_LOOK: Final = 0.25
_SHORT: Final = 0.01
_QUEUE: Final = 128  # connections that the system holds until there is room
_GRACE: Final = 0.2  # seconds in which a connection is not closed for being slow
_SHORTEST: Final = 0.001  # of a wait: a socket with a timeout of 0 would not wait at all


class _Connection:
    """One request: first it is read, then it is worked on."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer, self.reading, self.began = peer, True, time.monotonic()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.peer.shutdown(socket.SHUT_RDWR)
        self.peer.close()


class Agent:
    """Serves a site on a Unix socket.

    Args:
        site: The site.
        path: The socket; its folder is made.
        limits: The section `agent` of the policy.

    Raises:
        ConfigError: This system does not state who connects, the group does not exist, or the folder of the socket is
            not the agent's own.
        StateError: Another agent serves this socket.
    """

    def __init__(self, site: Site, path: Path, limits: AgentLimits) -> None:
        self._option = getattr(socket, "SO_PEERCRED", None)
        if self._option is None:
            raise ConfigError("the agent needs a system that states who connects to a Unix socket (SO_PEERCRED)")
        self._site, self._limits, self._path = site, limits, path
        self._uids = frozenset(limits.relay_uids) or frozenset({os.getuid()})
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._ended = threading.Event()  # set when a connection has made room
        self._unknown = 0  # requests in work that belong to no round in progress
        self._listening = self._listen()

    def _listen(self) -> socket.socket:
        folder, group = self._path.parent, self._limits.group or None
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & stat.S_IWOTH:
            raise ConfigError(f"{folder} belongs to other users, too: name a folder of the agent's own in agent.socket")
        folder.chmod(FOLDER_MODE)
        if self._path.exists():
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(self._path))
                raise StateError(f"another agent serves {self._path}")
            self._path.unlink()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            before = os.umask(0o777 & ~SOCKET_MODE)
            try:
                listening.bind(str(self._path))
            finally:
                os.umask(before)
            self._path.chmod(SOCKET_MODE)
            if group is not None:
                for path in (folder, self._path):
                    shutil.chown(path, group=group)
        except LookupError as error:
            listening.close()
            raise ConfigError(f"agent.group is {group!r}, and there is no such group") from error
        except OSError:
            listening.close()
            raise
        listening.listen(_QUEUE)
        listening.settimeout(_LOOK)
        return listening

    def serve(self, going: Callable[[], bool]) -> None:
        """Answer requests until `going()` is false."""
        try:
            while going():
                if not self._has_room():
                    self._ended.wait(_SHORT)  # further connections wait in the queue of the system
                    continue
                try:
                    peer, _ = self._listening.accept()
                except TimeoutError:
                    continue
                self._admit(peer)
        finally:
            self.close()

    def close(self) -> None:
        """Stop listening, and close every connection."""
        self._listening.close()
        with self._lock:
            for connection in self._connections:
                connection.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _has_room(self) -> bool:
        """True if one more connection may be accepted; where all are taken, the slowest reader makes room."""
        with self._lock:
            if len(self._connections) < self._limits.max_connections:
                return True
            self._ended.clear()
            late = time.monotonic() - _GRACE
            slow = next((other for other in self._connections if other.reading and other.began < late), None)
            if slow is None:
                return False
            self._connections.remove(slow)
        slow.close()
        self._site.log.refuse("agent.max_connections is reached: a connection that sent too slowly was closed")
        return True

    def _admit(self, peer: socket.socket) -> None:
        """Start a thread for a connection of an allowed user."""
        assert self._option is not None  # noqa: S101 - checked by the constructor
        pid, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, self._option, _CREDENTIALS.size))
        if uid not in self._uids:
            self._site.log.refuse("a user that is not in agent.relay_uids connected", uid=uid, pid=pid)
            peer.close()
            return
        connection = _Connection(peer)
        with self._lock:
            self._connections.append(connection)
        threading.Thread(target=self._work, args=(connection,), daemon=True).start()

    def _work(self, connection: _Connection) -> None:
        try:
            frame, model = self._read(connection.peer)
            connection.reading = False
            with self._place(frame) as free:
                reply = self._site.answer(frame, model) if free else REFUSAL
            connection.peer.settimeout(self._limits.read_seconds)
            connection.peer.sendall(LENGTH.pack(len(reply)) + reply)
        except (OSError, WireError) as error:
            self._site.log.refuse(str(error) or type(error).__name__, kind="connection")
        finally:
            connection.close()
            with self._lock:
                if connection in self._connections:
                    self._connections.remove(connection)
            self._ended.set()

    @contextlib.contextmanager
    def _place(self, frame: bytes) -> Iterator[bool]:
        """A place to work in; the last one is kept for frames of rounds in progress."""
        if self._site.is_known(frame):
            yield True
            return
        with self._lock:
            free = self._unknown < self._limits.max_connections - 1
            self._unknown += free
        if not free:
            self._site.log.refuse("every place for new rounds is taken")
        try:
            yield free
        finally:
            with self._lock:
                self._unknown -= free

    def _read(self, peer: socket.socket) -> tuple[bytes, bytes]:
        """The frame and the model of a request, within the limits of bytes and time."""
        end = time.monotonic() + self._limits.read_seconds
        frame_bytes, model_bytes = HEAD.unpack(_take(peer, HEAD.size, end))
        max_frame, max_model = self._site.max_request()
        if frame_bytes > max_frame or model_bytes > max_model:
            raise WireError(
                f"a request announces {frame_bytes} and {model_bytes} bytes, and the approved charters need at most "
                f"{max_frame} and {max_model}"
            )
        return _take(peer, frame_bytes, end), _take(peer, model_bytes, end)


def _take(peer: socket.socket, count: int, end: float) -> bytes:
    """Exactly `count` bytes; memory grows only as they come."""
    taken = bytearray()
    while len(taken) < count:
        left = end - time.monotonic()
        try:
            peer.settimeout(max(left, _SHORTEST))
            piece = peer.recv(min(_PIECE, count - len(taken)))
        except TimeoutError as error:
            raise TimeoutError("a request did not arrive within agent.read_seconds") from error
        if not piece:
            raise WireError(f"a request ended after {len(taken)} of {count} bytes")
        taken += piece
    return bytes(taken)
