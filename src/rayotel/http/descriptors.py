"""How many files the process may have open, and how many of them connections may be.

The WAL, the lake and merging need files of their own: without one the log stops. So connections
never get the last of them.
"""

from __future__ import annotations

import contextlib
import resource

MAX_RESERVED = 384


def raise_limit() -> int:
    """Raise the limit on open files to the highest that this process may have; that limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else 2**31


def connections_within(limit: int, wanted: int) -> int:
    """As many connections as are wanted, or as leave enough files for everything else."""
    return max(1, min(wanted, limit - min(MAX_RESERVED, limit // 2)))
