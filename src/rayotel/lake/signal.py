"""The signals, which are the kinds of data. No other module lists them.

A new signal is an entry here, and a file of its name in `ingest/decode`, `lake/rows` and
`lake/merge`, which `piece` finds.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType

import pyarrow as pa

from rayotel.lake import schema
from rayotel.lake.recipe import Recipe, committed
from rayotel.lake.schema import FixedColumn
from rayotel.model import DEFAULT_EVENTS_STREAM, DEFAULT_METRICS_STREAM


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """One kind of data, from the address that takes it to the bytes that keep it.

    `path`: where it is posted. `default_stream`: its stream unless a request names one. `rows`: the
    word for its rows. `columns`: the columns of every part. `identity`: a fixed column that no
    other signal has. `ray_labels`: labels that Ray gives it, which the view of a stream always has.
    `merged`: how merged parts are written; `fresh`: how committed parts are written. `is_otlp`:
    whether requests follow OTLP; if not, any body is taken, and a secret path and query parameters
    stand in for credentials and headers. `rejected_field`: the field of OTLP's answer that counts
    rejected rows.
    """

    name: str
    path: str
    default_stream: str
    rows: str
    columns: tuple[FixedColumn, ...]
    identity: str
    ray_labels: tuple[str, ...]
    merged: Recipe
    is_otlp: bool
    rejected_field: str = ""
    types: Mapping[str, pa.DataType] = field(init=False)
    places: Mapping[str, int] = field(init=False)
    fresh: Recipe = field(init=False)

    def __post_init__(self) -> None:
        types = {column.name: column.type for column in self.columns}
        object.__setattr__(self, "types", types)
        object.__setattr__(self, "places", {name: place for place, name in enumerate(types)})
        object.__setattr__(self, "fresh", committed(self.merged))

    def header_column(self, name: str) -> str:
        """The column of the header `X-P-<name>`."""
        return schema.header_column(name, self.types)

    def piece(self, room: str) -> ModuleType:
        """What a room has for this signal: the file of its name there."""
        return importlib.import_module(f"{room}.{self.name}")


METRICS = Signal(
    name="metrics",
    path="/v1/metrics",
    default_stream=DEFAULT_METRICS_STREAM,
    rows="points",
    columns=schema.METRIC_COLUMNS,
    identity="metric_name",
    ray_labels=(
        "metric_NodeAddress", "metric_SessionName", "metric_JobId", "metric_WorkerId",
        "metric_State", "metric_ObjectState", "metric_Location", "metric_label_Name",
        "metric_label_Type", "metric_IsRetry", "metric_Source", "metric_Component",
        "metric_Reason", "metric_IsHeadNode", "metric_RayNodeType", "metric_ip",
        "metric_instance", "metric_job", "metric_cluster_id", "metric_GpuIndex", "metric_Method",
        "metric_NodeType", "cluster_id",
    ),
    merged=Recipe(
        "zstd",
        9,
        sorted_by="metric_name",
        plain=("time_unix_nano", "p_timestamp"),
        differences=("data_point_count",),
        split=("data_point_value", "data_point_sum", "data_point_min", "data_point_max"),
        page_bytes=1 << 26,
        page_rows=1 << 26,
    ),
    is_otlp=True,
    rejected_field="rejected_data_points",
)  # fmt: skip

EVENTS = Signal(
    name="events",
    path="/v1/events",
    default_stream=DEFAULT_EVENTS_STREAM,
    rows="events",
    columns=schema.EVENT_COLUMNS,
    identity="event_id",
    ray_labels=("cluster_id",),
    # events are read by type and time, and their JSON repeats itself from one row to the next
    merged=Recipe(
        "zstd",
        9,
        sorted_by="event_type",
        plain=("p_timestamp",),
        differences=("time_unix_nano",),
        long=("event_id", "event", "problem"),
        page_bytes=4 << 20,
        page_rows=1 << 20,
    ),
    is_otlp=False,
)

SIGNALS = (METRICS, EVENTS)
BY_NAME: Mapping[str, Signal] = {signal.name: signal for signal in SIGNALS}


def of_columns(columns: Iterable[str]) -> Signal:
    """The signal of a part with these columns, where its footer does not name it."""
    names = set(columns)
    return next((signal for signal in SIGNALS if signal.identity in names), METRICS)
