"""Rows of hostile commits: no shape within the limits costs memory or time without bound."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayotel.lake import parts
from rayotel.lake.label_columns import MAX_HEADER_COLUMNS, chosen
from rayotel.lake.parts import PIECE_BYTES, HourRows
from rayotel.lake.rows import by_signal
from rayotel.lake.rows.stream_memory import StreamMemory
from rayotel.lake.rows.tables import Wanted, every_hour
from rayotel.lake.signal import METRICS
from rayotel.model import (
    NANOSECONDS_PER_HOUR,
    PROTOBUF,
    Arrival,
    Lists,
    MetricBatch,
    Points,
    Series,
)

HOUR = 490_000
START = HOUR * NANOSECONDS_PER_HOUR
ARRIVAL = Arrival("metrics", "s", PROTOBUF, "identity", START, "1.2.3.4", "agent")
GAUGE = {"metric_name": "m", "metric_type": "gauge"}
Labels = tuple[tuple[str, str], ...]


def gauges(labels: list[Labels], times: list[int] | None = None) -> MetricBatch:
    """A request with a point for each of these series."""
    series = [Series(number, GAUGE, tuple(sorted(some))) for number, some in enumerate(labels)]
    return points(series, times or [START] * len(series))


def points(series: list[Series], times: list[int], **values: Lists) -> MetricBatch:
    """A request whose points are of these series, one after another."""
    places = (np.arange(len(times)) % len(series)).astype(np.int32)
    columns = {"data_point_value": np.arange(len(times)) * 1.0, **values}
    chunk = Points("number", places, np.array(times, np.int64), None, None, columns)
    return MetricBatch(ARRIVAL, series, [chunk])


def hours_of(batch: MetricBatch, columns: int = 512, wanted: Wanted = every_hour) -> list[HourRows]:
    """The hours of a commit of one request."""
    memory = StreamMemory(columns)
    return list(by_signal.tables(METRICS, [batch], memory, lambda _: False, wanted).hours)


def test_hours_come_in_order_and_only_those_that_are_wanted() -> None:
    """Late hours can wait while others are written."""
    times = [START + hour * NANOSECONDS_PER_HOUR for hour in (3, 1, 2, 1)]
    batch = gauges([()] * 4, times)
    assert [(one.hour - HOUR, one.rows) for one in hours_of(batch)] == [(1, 2), (2, 1), (3, 1)]
    late = hours_of(batch, wanted=lambda hour: hour != HOUR + 1)
    assert [one.hour - HOUR for one in late] == [2, 3]


def test_an_hour_costs_no_more_than_its_own_rows() -> None:
    """A point in each hour of a year, beside a great many series: CPU is that of the parts."""
    series = [Series(n, GAUGE, (("metric_w", str(n)),)) for n in range(20_000)]
    times = [START] * len(series)
    times += [START + hour * NANOSECONDS_PER_HOUR for hour in range(1, 1001)]
    batch = points(series, times)
    begun = time.process_time()
    made = by_signal.tables(METRICS, [batch], StreamMemory(512), lambda _: False)
    sizes = [len(parts.to_parquet(hour, "s", METRICS, "")) for hour in made.hours]
    assert len(sizes) == 1001
    assert time.process_time() - begun < 20  # four seconds where it was measured


def test_one_long_text_of_many_series_is_encoded_once() -> None:
    """As a label and as a fixed value; it was copied for every series, beyond Arrow's 2 GiB."""
    text = "x" * (1 << 20)
    series = [
        Series(n, {"metric_name": f"m{n}", "resource_schema_url": text}, (("resource_a", text),))
        for n in range(2600)
    ]
    (hour,) = hours_of(points(series, [START] * len(series)))
    (table,) = hour.pieces
    for name in ("resource_a", "resource_schema_url"):
        assert len(table.column(name).chunk(0).dictionary) == 1
    assert table.nbytes < 16 << 20


@pytest.mark.parametrize("shape", ["wide", "lists", "overflow", "texts"])
def test_pieces_are_bounded_and_in_order(shape: str) -> None:
    """Together they are the part that one piece would be; each fits its bound."""
    lists: dict[str, Lists] = {}
    count = 4000
    if shape == "wide":
        labels = [tuple((f"metric_{n:03}", f"{n}") for n in range(400)) for _ in range(count)]
    elif shape == "texts":
        labels = [(("metric_a", f"{n:05}" * 2000),) for n in range(count)]
    elif shape == "overflow":
        names = [(f"metric_{n:04}", "x") for n in range(1200)]
        labels = [(*names, ("metric_z", str(n))) for n in range(count)]
    else:
        labels = [(("metric_a", f"{n:05}"),) for n in range(count)]
        lengths = np.full(count, 2000, np.int32)
        members = np.arange(2000 * count, dtype=np.int64)
        lists["data_point_bucket_counts"] = Lists(members, lengths)
    series = [Series(number, GAUGE, some) for number, some in enumerate(labels)]
    batch = points(series, [START + n for n in range(count)], **lists)
    (hour,) = hours_of(batch)
    pieces = list(hour.pieces)
    assert len(pieces) > 1
    assert sum(map(len, pieces)) == hour.rows == count
    assert {piece.schema for piece in pieces} == {hour.schema}
    for piece in pieces:
        held = {
            id(column.chunk(0)): column.nbytes
            for column in piece.columns
            if column.null_count < len(piece)
        }
        assert sum(held.values()) < 3 * PIECE_BYTES
    (hour,) = hours_of(batch)
    content = parts.to_parquet(hour, "s", METRICS, "")
    read = pq.ParquetFile(pa.BufferReader(content))
    assert read.num_row_groups == len(pieces)
    values = read.read(["data_point_value", "series_id"])
    assert sorted(values["data_point_value"].to_pylist()) == list(range(count))


def test_labels_beyond_the_bound_leave_rays_own_and_headers_alone() -> None:
    """600 labels in one request took the columns of Ray's labels: node-cpu was silently empty."""
    ray = tuple((label, "v") for label in METRICS.ray_labels)
    junk = tuple((f"metric_a{n:03}", "v") for n in range(600))
    header = (("tenant", "t"),)
    (hour,) = hours_of(gauges([junk, (*ray, *header, *junk)]))
    names = {name.lower() for name in hour.schema.names}
    assert {label.lower() for label in METRICS.ray_labels} | {"tenant"} <= names
    assert (
        len([name for name in names if name.startswith("metric_a") and name[8:].isdigit()]) == 512
    )
    assert hour.overflow_rows == 2
    (table,) = hour.pieces
    spilled = json.loads(table.column("labels_overflow").to_pylist()[0])
    assert len(spilled) == 88


def test_the_choice_of_columns_depends_on_the_part_alone() -> None:
    """Labels of most series come first, then ASCII order; headers have a bound of their own."""
    counts = {"metric_rare": 1, "metric_b": 5, "metric_A": 5, "metric_a": 1, "x": 1}
    labels = chosen(counts, frozenset(), 2)
    assert set(labels.spelled.values()) == {"metric_A", "metric_b", "x"}
    assert labels.beyond == {"metric_rare"}
    headers = {f"h{n:03}": 1 for n in range(MAX_HEADER_COLUMNS + 5)}
    assert len(chosen(headers, frozenset({"h104"}), 512).spelled) == MAX_HEADER_COLUMNS + 1


def test_a_point_that_one_request_repeats_is_left_out() -> None:
    """By full nanoseconds and values; what differs by a nanosecond stays, though times are cut."""
    series = [Series(1, GAUGE, ())]
    chunk = Points(
        "number",
        np.zeros(4, np.int32),
        np.array([START, START, START + 1, START], np.int64),
        None,
        None,
        {"data_point_value": np.array([1.0, 2.0, 1.0, 1.0])},
    )
    batch = MetricBatch(ARRIVAL, series, [chunk])
    later = replace(batch, arrival=replace(ARRIVAL, received_unix_nano=START + 1000))
    made = by_signal.tables(METRICS, [batch, later], StreamMemory(512), lambda _: False)
    (hour,) = made.hours
    assert made.left_out == 2
    (table,) = hour.pieces
    assert sorted(table["data_point_value"].to_pylist()) == [1.0] * 4 + [2.0] * 2
