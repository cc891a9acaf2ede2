"""Ids of recently stored events: an event that is sent again in another request is stored once.

Ray repeats events that were not answered in time, and cuts its batches anew, so a digest of the
request does not always find them. The committer leaves out events whose id an earlier segment had.
It must decide the same when it commits a segment again after a crash. So its memory has the ids
stored from other segments only, from the newest back, as many whole blocks as fit. Ids are compared
whole.

**Files** `<data_dir>/wal/events/<segment>.ids` (see `id_files`), named after the first segment
in them, with a block for each segment and stream.

Every start writes the remembered ids to one file and continues in another. It drops blocks whose
segments are to be committed again. A file is removed when later files hold twice the remembered
ids: after a loss of power, a removed segment may be back.

An id of another length is remembered by 28 bytes of BLAKE2b. An event takes about 150 bytes of
memory.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayotel.errors import WalError
from rayotel.ingest.wal import id_files
from rayotel.ingest.wal.id_files import Block

KEY_BYTES = 28
FILES = 8


def key_of(event_id: str) -> bytes:
    """What an event is remembered by; `event_id` is hexadecimal."""
    raw = bytes.fromhex(event_id)
    return raw if len(raw) == KEY_BYTES else hashlib.blake2b(raw, digest_size=KEY_BYTES).digest()


@dataclass(slots=True)
class _File:
    """A file and how many ids it holds."""

    path: Path
    keys: int


class StoredEvents:
    """The memory of one data directory, for one thread. `open` before use."""

    def __init__(self, directory: Path, *, max_events: int) -> None:
        self._directory = directory
        self._max_events = max_events
        self._blocks: deque[Block] = deque()
        self._keys: dict[str, set[bytes]] = {}
        self._total = 0
        self._files: list[_File] = []
        self._is_broken = True
        self._persisted = (-1, False)

    def open(self, waiting: Collection[int]) -> None:
        """Read what was stored of all segments but those that wait to be committed (again).

        Raises WalError.
        """
        try:
            self._directory.mkdir(exist_ok=True)
            by_place: dict[tuple[int, str, tuple[bytes, ...]], Block] = {}
            old = sorted(self._directory.glob("*.ids"))
            for path in old:
                for block in id_files.blocks_of(path):
                    if block.segment not in waiting:
                        by_place.setdefault((block.segment, block.stream, block.ids), block)
            in_order = [block for _, block in sorted(by_place.items())]
            for block in in_order:
                self._add(block)
            self._rewrite(old, self._newest(in_order))
        except OSError as error:
            raise self._failed(error) from None

    def has(self, stream: str, event_id: str) -> bool:
        """Whether an earlier segment had this event."""
        known = self._keys.get(stream)
        return known is not None and key_of(event_id) in known

    def persist(
        self, segment: int, stored: Mapping[str, Sequence[str]], *, is_late: bool = False
    ) -> None:
        """Make durable which events (ids by stream) a segment stored. Raises WalError.

        `is_late`: with the late rows that it was held for.
        """
        blocks = self._of(segment, stored)
        if not blocks or (segment, is_late) == self._persisted:
            return
        keys = sum(len(block.ids) for block in blocks)
        is_new = self._is_broken or self._files[-1].keys >= max(1, self._max_events // FILES)
        try:
            if is_new:
                path = self._directory / f"{segment:012d}.ids"
                self._files = [file for file in self._files if file.path != path]
                self._files.append(_File(path, 0))
            self._is_broken = True
            (id_files.replace if is_new else id_files.append)(self._files[-1].path, blocks)
        except OSError as error:
            raise self._failed(error) from None
        self._is_broken = False
        self._files[-1].keys += keys
        self._persisted = segment, is_late
        self._remove_old()

    def add(self, segment: int, stored: Mapping[str, Sequence[str]]) -> None:
        """Remember the events of a segment that was released."""
        for block in self._of(segment, stored):
            self._add(block)

    def _of(self, segment: int, stored: Mapping[str, Sequence[str]]) -> list[Block]:
        return [
            Block(segment, 0, stream, tuple(map(key_of, ids[-self._max_events :])))
            for stream, ids in sorted(stored.items())
            if ids
        ]

    def _add(self, block: Block) -> None:
        self._blocks.append(block)
        self._keys.setdefault(block.stream, set()).update(block.ids)
        self._total += len(block.ids)
        while self._total > self._max_events:
            oldest = self._blocks.popleft()
            self._total -= len(oldest.ids)
            left = self._keys[oldest.stream]
            left.difference_update(oldest.ids)
            if not left:
                del self._keys[oldest.stream]

    def _newest(self, blocks: list[Block]) -> list[Block]:
        """The last blocks that files are kept for."""
        total = 0
        for position in range(len(blocks) - 1, -1, -1):
            total += len(blocks[position].ids)
            if total > 2 * self._max_events:
                return blocks[position + 1 :]
        return blocks

    def _rewrite(self, old: list[Path], blocks: list[Block]) -> None:
        """One file instead of all."""
        kept: list[Path] = []
        if blocks:
            path = self._directory / f"{blocks[0].segment:012d}.ids"
            id_files.replace(path, blocks)
            self._files = [_File(path, sum(len(block.ids) for block in blocks))]
            kept = [path]
        for path in old:
            if path not in kept:
                path.unlink(missing_ok=True)

    def _remove_old(self) -> None:
        after = 0
        for position in range(len(self._files) - 1, -1, -1):
            if after >= 2 * self._max_events:
                for file in self._files[: position + 1]:
                    with contextlib.suppress(OSError):
                        file.path.unlink(missing_ok=True)
                del self._files[: position + 1]
                return
            after += self._files[position].keys

    def _failed(self, error: OSError) -> WalError:
        return WalError(f"cannot keep ids in '{self._directory}': {error.strerror or error}")
