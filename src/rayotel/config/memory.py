"""How the memory of a server's process is divided, and the proof that its bounds fit together.

The bounds are of what may be held at one moment: bodies, decoded columns, series, remembered ids,
one decode of a large body and one commit. What each takes per byte or piece is measured with
hostile bodies (`tests/support/fuzz_decode.py`, `tests/support/fuzz_server.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

MIB = 1024 * 1024
DEFAULT_BYTES = 512_000_000
# the interpreter and its libraries, idle connections, the index of series of the commits
FIXED_BYTES = 145_000_000
# one large body is decoded at a time
DECODE_BYTES, DECODE_TIMES_INFLATED = 10_000_000, 6
# columns of one segment, and what making rows and Parquet of them takes at most
COMMIT_BYTES = 12 * MIB
COMMIT_TIMES_COLUMNS = 8
REQUEST_BYTES, EVENT_BYTES = 120, 150
# of memory beyond the default, in percent
_MORE = {
    "max_series_cached_bytes": (60, 1),
    "max_waiting_columns_bytes": (20, 1),
    "max_bytes_in_flight": (10, 1),
    "max_requests_remembered": (10, REQUEST_BYTES),
}


def shares(memory_bytes: int, defaults: Mapping[str, int]) -> dict[str, int]:
    """Defaults of bounds for this much memory; `defaults`: for DEFAULT_BYTES."""
    more = memory_bytes - DEFAULT_BYTES
    return {
        name: max(1, defaults[name] + more * percent // 100 // unit_bytes)
        for name, (percent, unit_bytes) in _MORE.items()
    }


def needed_bytes(bounds: Mapping[str, int]) -> int:
    """The most that a server with these settings takes."""
    return (
        FIXED_BYTES
        + bounds["max_bytes_in_flight"]
        + DECODE_BYTES
        + DECODE_TIMES_INFLATED * bounds["max_inflated_body_bytes"]
        + bounds["max_waiting_columns_bytes"]
        + COMMIT_TIMES_COLUMNS * COMMIT_BYTES
        + bounds["max_series_cached_bytes"]
        + REQUEST_BYTES * bounds["max_requests_remembered"]
        + EVENT_BYTES * bounds["max_events_remembered"]
    )
