"""Questions without processes, for fast tests: a worker's code in a thread, with the same messages.

Nothing ends such a question but its own limits; tests/query/process has the real thing.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import tempfile
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

from rayotel.lake.storage.interface import Storage
from rayotel.query.process.asking import Running
from rayotel.query.process.limits import Limits


@contextlib.contextmanager
def asking_of(storage: Storage) -> Iterator[None]:
    """Questions ask this very storage, in this process."""
    with (
        mock.patch("rayotel.query.lake.Supervised", Threaded),
        mock.patch("rayotel.query.worker.opened", return_value=storage),
    ):
        yield


class Threaded:
    """Stands in for `Supervised`."""

    def __init__(self, module: str, opening: Any) -> None:
        self._what = (module, opening)

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        """Nothing to end."""

    def ask(self, limits: Limits, *, may_write: bool) -> Running:
        """A thread that waits for a message."""
        assert isinstance(may_write, bool)
        data, workers = socket.socketpair()
        reins, supervisors = socket.socketpair()
        threading.Thread(target=self._serve, args=(workers, supervisors), daemon=True).start()
        return Running(data, reins, limits)

    def _serve(self, workers: socket.socket, supervisors: socket.socket) -> None:
        module, opening = self._what
        with (
            supervisors,
            workers,
            contextlib.suppress(OSError),
            tempfile.TemporaryDirectory() as spill,
        ):
            importlib.import_module(module).prepared(opening)(workers, spill)
