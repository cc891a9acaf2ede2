"""The asker's side: starts a supervisor, and gives it questions."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any

from rayotel.errors import QueryError
from rayotel.query.process import frames, supervision
from rayotel.query.process.limits import Limits
from rayotel.query.process.supervision import TOO_LONG, TOO_MUCH, Supervisor

# an end waits for the removal of what was spilled
MAX_END_SECONDS = 60.0
MAX_VERDICT_BYTES = 100


class Running:
    """A question that runs in its worker. Not for several threads at once."""

    def __init__(self, data: socket.socket, reins: socket.socket, limits: Limits) -> None:
        self._data = data
        self._reins = reins
        self._limits = limits
        self._is_closed = False

    def send(self, kind: bytes, content: bytes) -> None:
        """Send a message to the worker; whoever is gone already says so when it is read."""
        with contextlib.suppress(OSError):
            frames.send(self._data, kind, content)

    def receive(self, reader: int | None = None) -> tuple[bytes, bytearray]:
        """The next message. Raises QueryError where the process was ended.

        `reader`: a descriptor to which the answer will be written. Raises BrokenPipeError as soon
        as nobody can read it any more.
        """
        if reader is not None:
            self._wait(reader)
        try:
            return frames.receive(self._data)
        except EOFError:
            raise self._failure() from None

    def _wait(self, reader: int) -> None:
        poll = select.poll()
        poll.register(self._data, select.POLLIN)
        poll.register(reader, 0)
        while True:
            events = dict(poll.poll())
            if self._data.fileno() in events:
                return
            if events.get(reader, 0) & select.POLLERR:
                raise BrokenPipeError
            poll.unregister(reader)  # not a pipe: a terminal that hung up comes as a signal

    def _failure(self) -> QueryError:
        verdict = self._verdict()
        if verdict == TOO_LONG:
            return self._limits.too_long()
        if verdict == TOO_MUCH:
            return self._limits.too_much()
        how = f" by {verdict}" if verdict.startswith("SIG") else ""
        return QueryError(
            f"the process of the query was ended{how}",
            hint="it may have needed more memory than there is: narrow the time range with --since",
        )

    def close(self) -> None:
        """End the question if it still runs. Returns when nothing is left of it. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._data.close()
            self._verdict()
            self._reins.close()

    def _verdict(self) -> str:
        """How the process ended: wait until it has, and end it if it has not been told to."""
        said = b""
        with contextlib.suppress(OSError):
            self._reins.shutdown(socket.SHUT_WR)
            self._reins.settimeout(MAX_END_SECONDS)
            while more := self._reins.recv(MAX_VERDICT_BYTES):
                said += more
        return said.decode()


class Supervised:
    """A supervisor of this process's own, started when it is first needed. For several threads."""

    def __init__(self, module: str, opening: Any) -> None:
        """`module` has a function `prepared(opening)`, which gives what serves a socket."""
        self._what = pickle.dumps((module, opening))
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._end: Callable[[], object] | None = None

    def start(self) -> None:
        """Start the supervisor. This costs least before anything heavy is imported."""
        with self._lock:
            self._started()

    def close(self) -> None:
        """End the supervisor and its questions. Idempotent; the next question starts another."""
        with self._lock:
            self._close()

    def ask(self, limits: Limits, *, may_write: bool) -> Running:
        """A new worker with these limits, which waits for a message."""
        data, workers = socket.socketpair()
        reins, supervisors = socket.socketpair()
        with workers, supervisors:
            self._hand_over(limits.packed(may_write=may_write), [workers, supervisors])
        return Running(data, reins, limits)

    def _hand_over(self, packed: bytes, sockets: list[socket.socket]) -> None:
        descriptors = [one.fileno() for one in sockets]
        with self._lock:
            for is_last in (False, True):
                try:
                    socket.send_fds(self._started(), [packed], descriptors)
                    return
                except OSError as error:  # it is gone: somebody killed it
                    self._close()
                    if is_last:
                        raise QueryError("the process of queries cannot be started") from error

    def _started(self) -> socket.socket:
        if self._control is None:
            self._control, theirs = socket.socketpair()
            with theirs:
                end = _forked(theirs) if _is_plain() else _spawned(theirs)
            self._end = weakref.finalize(self, _ended, self._control, end)
            frames.send(self._control, frames.QUESTION, self._what)
        return self._control

    def _close(self) -> None:
        if self._end is not None:
            self._end()
        self._control = self._end = None


def _ended(control: socket.socket, end: Callable[[], object]) -> None:
    control.close()
    end()


def _is_plain() -> bool:
    """Whether this process has one thread, libraries' threads counted: then it may fork."""
    try:
        return len(list(os.scandir("/proc/self/task"))) == 1
    except OSError:
        return False


def _forked(theirs: socket.socket) -> Callable[[], object]:
    """A supervisor that takes over what this process has imported."""
    pid = os.fork()
    if pid:
        return lambda: _reap(pid)
    try:
        control = os.dup2(theirs.fileno(), 3) if theirs.fileno() != 3 else 3
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        Supervisor(socket.socket(fileno=control)).run()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _spawned(theirs: socket.socket) -> Callable[[], object]:
    """A supervisor that begins anew."""
    # -P: the working directory is no place to import from
    command = [sys.executable, "-P", "-m", supervision.__name__, str(theirs.fileno())]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
    )
    return process.wait
