"""Forgetting on purpose: a whole stream, or the rows of a cluster or a session in all streams.

A part with such rows is rewritten without them: a part of the same segments, a level higher, in the
same place. Then every part that it covers goes at once, for what is to be forgotten must not
linger. If nothing is left of a part, one without rows takes its place, so that no part which it
covers counts again. A crash leaves both or the new one, and doing it again goes on.

The cluster of a row is its label `cluster_id`, else the header of that name; a row without either
has that of its session, if that session has rows of this cluster and of no other.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayotel.errors import LakeError, StorageMissing
from rayotel.lake import cache, catalog, layout, schema
from rayotel.lake.layout import Part
from rayotel.lake.merge.by_signal import merge
from rayotel.lake.merge.process import is_damage
from rayotel.lake.storage.interface import Storage
from rayotel.lake.upkeep.naming import put_named

READ_ROWS = 32_768
MAX_PASSES = 100
_CLUSTER = ("metric_cluster_id", "cluster_id", "resource_cluster_id")
_SESSION = ("metric_sessionname", "session_name", "resource_sessionname")


@dataclass(slots=True)
class Forgotten:
    """What went, or would go. `bytes`: of the parts that had such rows, before."""

    rows: int = 0
    parts: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Which:
    """Rows of a cluster or of a session. `sessions`: those that only this cluster has."""

    cluster: str | None = None
    session: str | None = None
    sessions: frozenset[str] = field(default_factory=frozenset)

    def mask(self, batch: pa.RecordBatch) -> pa.Array:
        """Row by row, whether it is one of them."""
        sessions = _label(batch, _SESSION)
        if self.session is not None:
            return pc.fill_null(pc.equal(sessions, self.session), False)
        clusters = _label(batch, _CLUSTER)
        by_session = pc.and_(
            pc.is_null(clusters), pc.is_in(sessions, pa.array(self.sessions, pa.string()))
        )
        return pc.or_(pc.fill_null(pc.equal(clusters, self.cluster), False), by_session)


def forget_stream(storage: Storage, stream: str, *, dry_run: bool = False) -> Forgotten:
    """Delete a stream: covered parts first, then the others, then its claims. Raises StorageError.

    Claims stay if another stream has the same name but for case.
    """
    done = Forgotten()
    for _ in range(MAX_PASSES):
        parts = catalog.all_parts(storage, stream)
        if not parts:
            break
        visible = layout.visible(parts)
        counts = {part.name for part in visible}
        done.parts += len(visible)
        done.bytes += sum(part.size_bytes for part in parts)
        done.rows += sum(_rows(storage, part) for part in visible)
        if dry_run:
            return done
        for part in sorted(parts, key=lambda part: part.name in counts):
            storage.delete(part.name.key)
    others = [name for name in catalog.streams(storage) if name != stream]
    if not dry_run and stream.lower() not in {name.lower() for name in others}:
        for item in list(storage.objects(layout.claims_prefix(stream))):
            storage.delete(item.key)
    return done


def _rows(storage: Storage, part: Part) -> int:
    try:
        (footer,) = cache.footers(storage, [part], None)
    except (LakeError, StorageMissing):  # a part that is none has no rows
        return 0
    return footer.rows


def forget_rows(
    storage: Storage,
    work: Path,
    which: Which,
    *,
    dry_run: bool = False,
    progress: Callable[[int, int], object] = max,
) -> Forgotten:
    """Delete the rows of a cluster or session in all streams, until a listing has none.

    `work`: a directory of its own, which is emptied. `progress` is called with the parts that were
    looked at and all parts of the pass. Raises StorageError; and LakeError for a damaged part, when
    all others are done.
    """
    done = Forgotten()
    seen: set[str] = set()
    damage: LakeError | None = None
    if which.cluster is not None:
        which = replace(which, sessions=_sessions_of(storage, work, which.cluster))
    for _ in range(MAX_PASSES):
        parts = [part for part in _visible(storage) if part.name.key not in seen]
        found = 0
        for number, part in enumerate(parts, start=1):
            seen.add(part.name.key)
            try:
                with _Fetched(storage, part, work) as path:
                    rows = 0 if path is None else _count(path, which)
                    if path is not None and rows and not dry_run:
                        _rewrite(storage, part, path, which)
            except LakeError as error:
                damage = damage or error
                continue
            if rows:
                found += 1
                done.rows += rows
                done.parts += 1
                done.bytes += part.size_bytes
            progress(number, len(parts))
        if dry_run or not found:
            break
    if damage is not None:
        raise damage
    return done


def _visible(storage: Storage) -> Iterator[Part]:
    for stream in catalog.streams(storage):
        yield from catalog.parts(storage, stream)


class _Fetched:
    """A part's file while it is used; None if the part went meanwhile."""

    def __init__(self, storage: Storage, part: Part, work: Path) -> None:
        self._storage, self._part, self._work = storage, part, work

    def __enter__(self) -> Path | None:
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        path = self._work / "part.parquet"
        try:
            self._storage.fetch(self._part.name.key, path)
        except StorageMissing:
            return None
        return path

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        if isinstance(error, (pa.ArrowException, ValueError, OSError)) and is_damage(error):
            raise LakeError(
                f"part '{self._part.name.key}' cannot be read: {error}",
                hint="'rayotel verify --repair' moves damaged parts aside",
            ) from error


def _count(path: Path, which: Which) -> int:
    return sum(pc.sum(which.mask(batch)).as_py() or 0 for batch in _labels(path))


def _labels(path: Path) -> Iterator[pa.RecordBatch]:
    """The columns of a part that can name a cluster or a session."""
    wanted = {*_CLUSTER, *_SESSION, schema.OVERFLOW}
    with pq.ParquetFile(path) as file:
        columns = [name for name in file.schema_arrow.names if name.lower() in wanted]
        yield from file.iter_batches(READ_ROWS, columns=columns)


def _sessions_of(storage: Storage, work: Path, cluster: str) -> frozenset[str]:
    """Sessions that have rows of this cluster and of no other."""
    clusters: dict[str, set[bool]] = {}
    for part in _visible(storage):
        with contextlib.suppress(LakeError), _Fetched(storage, part, work) as path:
            for batch in () if path is None else _labels(path):
                both = {"session": _label(batch, _SESSION), "cluster": _label(batch, _CLUSTER)}
                pairs = pa.table(both).group_by(list(both)).aggregate([]).to_pylist()
                for pair in pairs:
                    if None not in pair.values():
                        clusters.setdefault(pair["session"], set()).add(pair["cluster"] == cluster)
    return frozenset(session for session, is_this in clusters.items() if is_this == {True})


def _label(batch: pa.RecordBatch, columns: Iterable[str]) -> pa.Array:
    """The first text of several columns, row by row; labels without a column of their own too."""
    names = {name.lower(): name for name in batch.schema.names}
    texts = [pa.nulls(len(batch), pa.string())]
    for column in columns:
        if column in names:
            texts.append(batch.column(names[column]).cast(pa.string()))
    if schema.OVERFLOW in names:
        texts.append(_overflown(batch.column(names[schema.OVERFLOW]), tuple(columns)))
    return pc.coalesce(*(pc.if_else(pc.equal(text, ""), None, text) for text in texts))


def _overflown(overflow: pa.Array, columns: tuple[str, ...]) -> pa.Array:
    if overflow.null_count == len(overflow):
        return pa.nulls(len(overflow), pa.string())
    known: dict[str | None, str | None] = {None: None}
    texts = overflow.cast(pa.string()).to_pylist()
    for text in texts:
        if text not in known:
            known[text] = _told_in(text, columns)
    return pa.array([known[text] for text in texts], pa.string())


def _told_in(text: str, columns: tuple[str, ...]) -> str | None:
    try:
        labels = {name.lower(): value for name, value in json.loads(text).items()}
    except (ValueError, AttributeError):
        return None
    for column in columns:
        value = labels.get(column)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str) and value:
            return value
    return None


def _rewrite(storage: Storage, part: Part, path: Path, which: Which) -> None:
    """Put the part without these rows, then remove all that it covers."""
    kept, output = path.with_name("kept.parquet"), path.with_name("output.parquet")
    with pq.ParquetFile(path) as file, pq.ParquetWriter(kept, file.schema_arrow) as writer:
        for batch in file.iter_batches(READ_ROWS):
            left = batch.filter(pc.invert(which.mask(batch)))
            if len(left):
                writer.write_batch(left)
        marks = (file.metadata.metadata or {}).items()
        writer.add_key_value_metadata({k: v for k, v in marks if k.startswith(b"rayotel.")})
    spill = path.with_name("spill")
    spill.mkdir()
    merge([kept], output, part.name.stream, spill)
    wanted = replace(part.name, level=part.name.level + 1, is_old=False)
    name = put_named(storage, wanted, output)
    hour = part.name.hour
    there = catalog.all_parts(storage, part.name.stream, catalog.of_hour(hour))
    for other in sorted(there, key=lambda other: other.name.is_settled):
        if name.covers(other.name):
            storage.delete(other.name.key)
