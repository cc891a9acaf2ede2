"""What other engines find in a part: microseconds, and a field id for each column."""

from __future__ import annotations

import io
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from rayotel.lake import footers, schema
from rayotel.lake.merge import by_signal as merging
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.signal import EVENTS, METRICS
from rayotel.lake.storage.opening import open_storage
from rayotel.model import PROTOBUF, Arrival, MetricBatch, Record
from support.harness import ask
from support.lakes import DECODER, RECEIVED, T0, gauge, part, part_name, tables_by_hour


def batch(*bodies: bytes, received: int = RECEIVED, source: str = "1.2.3.4") -> list[MetricBatch]:
    """Requests that arrived at one moment each."""
    made = []
    for body in bodies:
        arrival = Arrival("metrics", "s", PROTOBUF, "identity", received, source, "")
        decoded = DECODER.decode(Record(arrival, body))
        assert isinstance(decoded, MetricBatch)
        made.append(decoded)
    return made


def written(path: Path, *bodies: bytes, received: int = RECEIVED) -> Path:
    """A part of these requests, all of one hour."""
    (table,) = tables_by_hour(batch(*bodies, received=received), StreamMemory(512)).values()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(part(table))
    return path


def old(path: Path, times: list[int], values: list[float], received: int = RECEIVED) -> Path:
    """A part as 0.1.0 wrote it: nanoseconds and no field ids."""
    (table,) = tables_by_hour(batch(gauge(*values)), StreamMemory(512)).values()
    nano = pa.timestamp("ns", "UTC")
    for name, column in (("time_unix_nano", times), ("p_timestamp", [received] * len(times))):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(column, pa.int64()).cast(nano))
    place = table.column_names.index("data_point_value")
    table = table.set_column(place, "data_point_value", pa.array(values))
    plain = [
        pa.field(
            field.name,
            pa.timestamp("ns", "UTC") if pa.types.is_timestamp(field.type) else field.type,
        )
        for field in table.schema
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.cast(pa.schema(plain)), path, store_schema=False)
    return path


def field_ids(path: Path) -> dict[str, int]:
    """The id of every leaf and group of a file's schema, by its path."""
    found: dict[str, int] = {}

    def look(field: pa.Field, name: str) -> None:
        found[name] = int(field.metadata[b"PARQUET:field_id"])
        kind = field.type
        members = [kind.value_field] if pa.types.is_list(kind) else []
        members += list(kind) if pa.types.is_struct(kind) else []
        for member in members:
            look(member, f"{name}.{member.name}")

    for field in pq.ParquetFile(path).schema_arrow:
        look(field, field.name)
    return found


def test_every_column_and_member_has_an_id_of_its_own(tmp_path: Path) -> None:
    """In committed and merged parts alike; the ids of fixed columns are pinned for good."""
    committed = written(tmp_path / "a", gauge(1, Version="1", a="x"))
    merged = tmp_path / "b"
    merging.merge([committed], merged, "s", tmp_path)
    ids = field_ids(committed)
    assert ids == field_ids(merged)
    assert len(set(ids.values())) == len(ids)
    pinned = ("p_timestamp", "time_unix_nano", "metric_name", "series_id", "labels_overflow")
    assert [ids[name] for name in pinned] == [1, 2, 4, 31, 41]
    assert ids["data_point_exemplars.element.time_unix_nano"] == 100 + 30 * 10 + 1
    assert all(
        number >= 1000
        for name, number in ids.items()
        if name.split(".")[0] not in schema.METRIC_TYPES
    )


def test_names_that_differ_in_case_have_one_id() -> None:
    """A receiver that spells a label otherwise, years later, writes the same column."""
    for places in (METRICS.places, EVENTS.places):
        first, second = (schema.field_id(name, places) for name in ("metric_Job", "metric_jOB"))
        assert first == second != schema.field_id("metric_job2", places)
    assert (
        schema.field_id("metric_Version", METRICS.places)
        == 1000
        + int.from_bytes(
            __import__("hashlib").blake2b(b"metric_version", digest_size=4).digest(), "big"
        )
        % 2**30
    )


def test_engines_read_the_right_times(tmp_path: Path) -> None:
    """DuckDB and Arrow, over a folder whose parts have other labels, fresh and merged."""
    first = written(tmp_path / "s" / "1.parquet", gauge(1, at=T0 + 123_456_789, a="x"))
    written(tmp_path / "s" / "2.parquet", gauge(2, at=T0 + 5_000, b="y"))
    merging.merge([first], tmp_path / "s" / "3.parquet", "s", tmp_path)
    expected = [T0 // 1000 + 5, T0 // 1000 + 123_456, T0 // 1000 + 123_456]
    with duckdb.connect() as connection:
        rows = connection.sql(
            "SELECT epoch_us(time_unix_nano), typeof(time_unix_nano), metric_a FROM read_parquet("
            f"'{tmp_path}/s/*.parquet', union_by_name = true) ORDER BY ALL"
        ).fetchall()
    kind = "TIMESTAMP WITH TIME ZONE"
    assert rows == [(expected[0], kind, None), *[(one, kind, "x") for one in expected[1:]]]
    table = ds.dataset(tmp_path / "s").to_table(columns=["time_unix_nano"])
    assert str(table.schema.field(0).type) == "timestamp[us, tz=UTC]"
    assert sorted(table["time_unix_nano"].cast(pa.int64()).to_pylist()) == expected


def test_parts_of_both_units_answer_as_one_table(tmp_path: Path) -> None:
    """Parts of 0.1.0 have nanoseconds: questions, footers and merges tell the units apart."""
    storage = open_storage(str(tmp_path / "lake"))
    before = old(tmp_path / "old.parquet", [T0 + 1_500, T0 + 2_500], [1.0, 2.0])
    after = written(tmp_path / "new.parquet", gauge(3, at=T0 + 3_000))
    for number, path in enumerate((before, after), 1):
        name = part_name(number, stream="s", hour=T0 // (3600 * 10**9))
        storage.put(name.key, memoryview(path.read_bytes()))
    sql = "SELECT epoch_us(time_unix_nano) AS t, data_point_value AS v FROM s ORDER BY t"
    expected = [{"t": T0 // 1000 + n, "v": float(n)} for n in (1, 2, 3)]
    assert ask(storage, sql) == expected
    extents = [footers.read_footer(path.read_bytes()) for path in (before, after)]
    assert [one.first_unix_nano for one in extents] == [T0 + 1_500, T0 + 3_000]
    merged = tmp_path / "merged"
    assert merging.merge([before, after], merged, "s", tmp_path) == 3
    assert str(pq.read_schema(merged).field("time_unix_nano").type) == "timestamp[us, tz=UTC]"
    times = pq.read_table(merged)["time_unix_nano"].cast(pa.int64()).to_pylist()
    assert times == [row["t"] for row in expected]


@pytest.mark.parametrize(
    ("requests", "rows"),
    [
        ([(1, [0, 10, 20])], 3),  # one request, less than a microsecond apart
        ([(1, [0, 0, 10])], 2),  # the same nanosecond twice is a repeat
        ([(1, [0, 10]), (2, [0, 10])], 2),  # a request and its repetition
        ([(1, [0]), (2, [0, 10]), (3, [10])], 2),  # the most that one request sent
        ([(1, [0]), (1, [1000])], 2),
    ],
)
def test_points_are_told_apart_by_what_was_sent(
    tmp_path: Path, requests: list[tuple[int, list[int]]], rows: int
) -> None:
    """Equal after cutting to microseconds: rows count as often as one request sent them."""
    paths = [
        written(
            tmp_path / f"{number}",
            _points([T0 + time for time in times]),
            received=RECEIVED + moment * 10**6,
        )
        for number, (moment, times) in enumerate(requests)
    ]
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert merging.merge(paths, once, "s", tmp_path) == rows
    assert merging.merge([once, *paths], twice, "s", tmp_path) == rows
    together = tmp_path / "together"
    assert merging.merge([once], together, "s", tmp_path) == rows
    if rows:
        assert merging.merge(paths, tmp_path / "late", "s", tmp_path, [once]) == 0


def test_repeats_in_old_parts_are_told_apart_by_nanoseconds(tmp_path: Path) -> None:
    """They kept what one request sent twice; merging left it out, and still does."""
    before = old(tmp_path / "old", [T0, T0, T0 + 1], [1.0, 1.0, 1.0])
    assert merging.merge([before], tmp_path / "merged", "s", tmp_path) == 2


def _points(times: list[int]) -> bytes:
    from support.otlp_reference import gauges

    return gauges(*times).SerializeToString()


def test_a_source_is_in_the_footer_and_an_old_part_has_none(tmp_path: Path) -> None:
    """It tells whether a part that exists was made from the same records."""
    from rayotel.lake import parts

    (table,) = tables_by_hour(batch(gauge(1)), StreamMemory(512)).values()
    made = parts.to_parquet(parts.HourRows.of(0, table, 7), "s", METRICS, "a" * 64)
    footer = footers.read_footer(bytes(made))
    assert (footer.source, footer.overflow_rows) == ("a" * 64, 7)
    content = io.BytesIO()
    pq.write_table(
        pa.table({"time_unix_nano": pa.array([T0]).cast(pa.timestamp("ns", tz="UTC"))}), content
    )
    assert footers.read_footer(content.getvalue()).source == ""
