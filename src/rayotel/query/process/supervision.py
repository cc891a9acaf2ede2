"""The supervisor: a process that forks one worker for each question, watches it and ends it.

    python -m rayotel.query.process.supervision FD

It has one thread and never runs a question itself, so nothing in a question can stop it. FD is its
socket to the asker: first comes what to run, then, for each question, its limits with two sockets.
The worker takes the first. The second stays here: if the asker closes it or says anything, the
worker is ended; the verdict is written to it when the worker is gone and its spill directory is
removed. When the asker is gone, everything ends.

What a question needs is imported here once, so a worker begins within milliseconds, and each is a
new process: nothing of one question is left for the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import pickle
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayotel.query.process import frames, limits
from rayotel.query.process.limits import GRACE_SECONDS, PACKED_BYTES, Limits

TICK_SECONDS = 0.02
SPILL_PREFIX = "rayotel-question-"
# a supervisor has locked its new directory by then
SWEPT_AFTER_SECONDS = 60
DONE, TOO_LONG, TOO_MUCH, CLOSED = "done", "too long", "too much", "closed"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

Serve = Callable[[socket.socket, str], None]


@dataclass(slots=True)
class _Worker:
    """A running question. `lifeline`: ends when the process does."""

    pid: int
    reins: socket.socket
    lifeline: int
    limits: Limits
    deadline: float
    spill: str
    verdict: str = DONE


class Supervisor:
    """Serves one asker until it is gone."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._serve: Serve | None = None
        self._what: tuple[str, Any] = ("", None)
        self._workers: dict[int, _Worker] = {}
        self._poll = select.poll()

    def run(self) -> None:
        """Serve."""
        for number in _IGNORED:  # the asker decides, and its end is this one's
            signal.signal(number, signal.SIG_IGN)
        warnings.simplefilter("ignore", DeprecationWarning)  # libraries' threads survive a fork
        _sweep()
        try:
            # from the process that started this one
            self._what = pickle.loads(frames.receive(self._control)[1])  # noqa: S301
            self._poll.register(self._control, select.POLLIN)
            while self._turn():
                pass
        except EOFError:
            pass
        finally:
            for worker in list(self._workers.values()):
                self._end(worker, CLOSED)
                self._bury(worker)

    def _turn(self) -> bool:
        events = self._poll.poll(TICK_SECONDS * 1000 if self._workers else None)
        by_fd = {fd: w for w in self._workers.values() for fd in (w.lifeline, w.reins.fileno())}
        for fd, _ in events:
            if fd == self._control.fileno():
                if not self._begin():
                    return False
                continue
            worker = by_fd[fd]
            if worker.pid not in self._workers:
                continue
            if fd == worker.lifeline:
                self._bury(worker)
            else:
                self._poll.unregister(worker.reins)
                self._end(worker, CLOSED)
        now = time.monotonic()
        for worker in self._workers.values():
            if now > worker.deadline:
                self._end(worker, TOO_LONG)
            elif _own_bytes(worker.pid) > worker.limits.process_bytes:
                self._end(worker, TOO_MUCH)
        return True

    def _begin(self) -> bool:
        """Fork a worker; False where the asker is gone."""
        try:
            packed, descriptors, _, _ = socket.recv_fds(self._control, PACKED_BYTES, 2)
        except ConnectionError:
            return False
        if len(packed) != PACKED_BYTES or len(descriptors) != 2:
            return False
        bounds, may_write = limits.unpacked(packed)
        data, reins = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        serve = self._prepared()
        spill = tempfile.mkdtemp(prefix=SPILL_PREFIX)
        ours, lifeline = os.pipe()
        lock = os.open(spill, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_SH)
        supervisor = os.getpid()
        pid = os.fork()
        if not pid:
            try:
                limits.hold(bounds, may_write=may_write, supervisor=supervisor)
                self._forget(reins, ours)
                serve(data, spill)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(lifeline)
        os.close(lock)
        data.close()
        deadline = time.monotonic() + bounds.timeout_seconds + GRACE_SECONDS
        self._workers[pid] = _Worker(pid, reins, ours, bounds, deadline, spill)
        self._poll.register(ours, 0)
        self._poll.register(reins, select.POLLIN)
        return True

    def _prepared(self) -> Serve:
        if self._serve is None:
            module, opening = self._what
            self._serve = importlib.import_module(module).prepared(opening)
        return self._serve

    def _forget(self, reins: socket.socket, ours: int) -> None:
        """In a worker: close what is the supervisor's."""
        self._control.close()
        reins.close()
        os.close(ours)
        for other in self._workers.values():
            other.reins.close()
            os.close(other.lifeline)

    def _end(self, worker: _Worker, verdict: str) -> None:
        if worker.verdict == DONE:
            worker.verdict = verdict
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)

    def _bury(self, worker: _Worker) -> None:
        """A worker's end: remove what it left, and say how it ended."""
        status = os.waitpid(worker.pid, 0)[1]
        del self._workers[worker.pid]
        self._poll.unregister(worker.lifeline)
        with contextlib.suppress(KeyError):
            self._poll.unregister(worker.reins)
        os.close(worker.lifeline)
        shutil.rmtree(worker.spill, ignore_errors=True)
        verdict = worker.verdict
        if verdict == DONE and os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            is_time = number in (signal.SIGALRM, signal.SIGXCPU)
            verdict = TOO_LONG if is_time else signal.Signals(number).name
        with contextlib.suppress(OSError):
            worker.reins.sendall(verdict.encode())
        worker.reins.close()


def _own_bytes(pid: int) -> int:
    """Memory that a process holds without files and shared pages; 0 where that is not known."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_bytes().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * _PAGE_BYTES


def _sweep() -> None:
    """Remove spill directories of supervisors that were killed: nobody holds their locks."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(tempfile.gettempdir()):
            if entry.name.startswith(SPILL_PREFIX) and entry.is_dir(follow_symlinks=False):
                _sweep_one(entry)


def _sweep_one(entry: os.DirEntry[str]) -> None:
    with contextlib.suppress(OSError):
        status = entry.stat(follow_symlinks=False)
        is_new = time.time() - status.st_mtime < SWEPT_AFTER_SECONDS
        if is_new or status.st_uid != os.getuid():
            return
        lock = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.path, ignore_errors=True)
        finally:
            os.close(lock)


if __name__ == "__main__":
    Supervisor(socket.socket(fileno=int(sys.argv[1]))).run()
    os._exit(0)  # there is nothing to take down
