"""The bounds of one question, and how the kernel holds its process to them.

Three things bound a question, each where the one before it does not reach. DuckDB spills, refuses
and is interrupted by itself, at `memory_bytes` and `timeout_seconds`. The supervisor ends the
process where its own memory is larger than `process_bytes` or its time is over by GRACE_SECONDS.
The kernel refuses data beyond `data_bytes`, and ends the process by CPU time and by a timer, so
that it also ends where nobody watches it. It dies with its supervisor.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import struct
import sys
from dataclasses import dataclass

from rayotel.errors import QueryError

OVERHEAD_BYTES = 256 * 1024 * 1024
UNTOUCHED_BYTES = 512 * 1024 * 1024
GRACE_SECONDS = 1.0
MAX_SPILL_TIMES_MEMORY = 4
# footers and copies of parts are written too
LEAST_FILE_BYTES = 512 * 1024 * 1024
_PACKED = struct.Struct("!QIdI")
_PR_SET_PDEATHSIG = 1
TOO_MUCH_HINT = "narrow the time range with --since, or raise RAYOTEL_QUERY_MEMORY_BYTES"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one query. `threads` 0: one per core."""

    memory_bytes: int
    threads: int
    timeout_seconds: float

    @property
    def process_bytes(self) -> int:
        """The memory of the question's process alone: what it shares with others is not counted."""
        return self.memory_bytes + OVERHEAD_BYTES

    @property
    def data_bytes(self) -> int:
        """What the kernel lets it ask for; allocators ask for more than they touch."""
        return self.process_bytes + self.memory_bytes // 2 + UNTOUCHED_BYTES

    @property
    def spill_bytes(self) -> int:
        """What DuckDB may write where memory does not suffice."""
        return self.memory_bytes * MAX_SPILL_TIMES_MEMORY

    def too_long(self) -> QueryError:
        """What a question is told that ran out of time."""
        return QueryError(
            f"the query ran longer than {self.timeout_seconds:g} seconds",
            hint="narrow the time range with --since, or raise RAYOTEL_QUERY_TIMEOUT_SECONDS",
        )

    def too_much(self) -> QueryError:
        """What a question is told that ran out of memory."""
        return QueryError(
            f"Out of Memory: the query needed more than {self.memory_bytes / 2**20:g} MiB",
            hint=TOO_MUCH_HINT,
        )

    def packed(self, *, may_write: bool) -> bytes:
        """As bytes, for the supervisor; PACKED_BYTES of them."""
        return _PACKED.pack(self.memory_bytes, self.threads, self.timeout_seconds, may_write)


PACKED_BYTES = _PACKED.size


def unpacked(packed: bytes) -> tuple[Limits, bool]:
    """Limits, and whether the question may write files of any size."""
    memory_bytes, threads, timeout_seconds, may_write = _PACKED.unpack(packed)
    return Limits(memory_bytes, threads, timeout_seconds), bool(may_write)


def hold(limits: Limits, *, may_write: bool, supervisor: int) -> None:
    """Bind this process, for good."""
    _die_with(supervisor)
    seconds = limits.timeout_seconds + 2 * GRACE_SECONDS
    cores = max(limits.threads, os.cpu_count() or 1)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_CPU, math.ceil(seconds * cores) + 1)
    _lower(resource.RLIMIT_DATA, limits.data_bytes)
    if not may_write:
        _lower(resource.RLIMIT_FSIZE, max(limits.spill_bytes, LEAST_FILE_BYTES))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _lower(kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        value = min(value, most)
    resource.setrlimit(kind, (value, value))


def _die_with(supervisor: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:  # it died before that call
        os._exit(1)
