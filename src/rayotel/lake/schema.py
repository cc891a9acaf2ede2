"""Columns of a stream: the fixed columns of each signal, and the name of a label's column.

**The rule for label columns.** A point attribute `key` has the column `metric_<key>`, a resource
attribute `resource_<key>`, a scope attribute `scope_<key>`, a header `X-P-<Name>` the column
`<name>` in lower case with `-` as `_`. Engines such as DuckDB and Spark ignore the case of column
names, so:

1. If that name equals a fixed column, ignoring case (`Name` would be `metric_Name`, and
   `metric_name` is the metric's name), or the key itself starts with `label_`, `label_` is put in:
   `metric_label_Name`. A header becomes `header_<name>`, also for `date` and `hour`, which are
   folders, and for names that begin like another kind.
2. Labels whose names differ only in case (`Version` and `version`) share one column, because an
   engine could not separate two. Within one file the column has the spelling that is first in ASCII
   order; rows with another spelling keep it in `labels_overflow`.
3. If one data point has two such labels, or one label twice, the column holds the first in ASCII
   order (the first sent), and `labels_overflow` the others.
4. A name with control characters, or of more than 200 characters, or beyond the bound on the label
   columns of a part (see `label_columns`) goes to `labels_overflow` too: a JSON object of column
   name to text (or to a list of texts).

Rules 1 to 3 look at one data point at a time and need no state, so every receiver and every year
give the same answer. docs/columns.md has the text of a value.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")
NANOSECONDS = 1000  # of a unit of TIMESTAMP
_EXEMPLAR = pa.struct(
    [
        ("time_unix_nano", TIMESTAMP),
        ("value", pa.float64()),
        ("value_int", pa.int64()),
        ("trace_id", pa.string()),
        ("span_id", pa.string()),
        ("filtered_attributes", pa.string()),
    ]
)
_FLOATS = pa.list_(pa.float64())
_COUNTS = pa.list_(pa.int64())
OVERFLOW = "labels_overflow"
MAX_COLUMN_NAME_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class FixedColumn:
    """A column that every part of a signal's streams has, whatever it holds."""

    name: str
    type: pa.DataType
    description: str


METRIC_COLUMNS: tuple[FixedColumn, ...] = tuple(
    FixedColumn(*row)
    for row in (
        ("p_timestamp", TIMESTAMP, "arrival time: when rayotel received the point"),
        ("time_unix_nano", TIMESTAMP, "event time: the point's own"),
        ("start_time_unix_nano", TIMESTAMP, "start of the time that a sum counts; null if unknown"),
        ("metric_name", pa.string(), "name of the metric"),
        (
            "metric_type",
            pa.string(),
            "gauge, sum, histogram, exponential_histogram or summary",
        ),
        ("metric_unit", pa.string(), "unit of the metric"),
        ("metric_description", pa.string(), "description of the metric"),
        ("metric_metadata", pa.string(), "metadata of the metric, JSON; null if none"),
        ("data_point_value", pa.float64(), "value of a gauge or sum; null if none was recorded"),
        ("data_point_value_int", pa.int64(), "exact value, if the sender sent an integer"),
        ("data_point_flags", pa.int64(), "OTLP flags; bit 0 means that no value was recorded"),
        ("aggregation_temporality", pa.string(), "cumulative, delta or unspecified, as sent"),
        ("is_monotonic", pa.bool_(), "whether a sum only grows"),
        ("data_point_count", pa.int64(), "observations in a histogram or summary"),
        ("data_point_sum", pa.float64(), "sum of the observations; null if not sent"),
        ("data_point_min", pa.float64(), "smallest observation; null if not sent"),
        ("data_point_max", pa.float64(), "largest observation; null if not sent"),
        ("data_point_bucket_counts", _COUNTS, "observations per bucket, not cumulative"),
        ("data_point_explicit_bounds", _FLOATS, "upper bounds of all buckets except the last"),
        (
            "data_point_buckets_repaired",
            pa.bool_(),
            "true if rayotel turned cumulative counts, which OTLP forbids, into counts per bucket",
        ),
        ("data_point_scale", pa.int64(), "scale of an exponential histogram"),
        ("data_point_zero_count", pa.int64(), "observations in the zero bucket"),
        ("data_point_zero_threshold", pa.float64(), "half width of the zero bucket"),
        ("positive_offset", pa.int64(), "index of the first positive bucket"),
        ("positive_bucket_count", _COUNTS, "observations per positive bucket"),
        ("negative_offset", pa.int64(), "index of the first negative bucket"),
        ("negative_bucket_count", _COUNTS, "observations per negative bucket"),
        ("data_point_quantile_values_quantile", _FLOATS, "quantiles of a summary, 0 to 1"),
        ("data_point_quantile_values_value", _FLOATS, "values at these quantiles"),
        ("data_point_exemplars", pa.list_(_EXEMPLAR), "example observations; null if none"),
        ("series_id", pa.int64(), "stable id of stream, metric, scope, headers and attributes"),
        ("scope_name", pa.string(), "name of the instrumentation scope"),
        ("scope_version", pa.string(), "version of the instrumentation scope"),
        ("scope_schema_url", pa.string(), "schema URL of the scope"),
        ("scope_dropped_attributes_count", pa.int64(), "attributes that the sender dropped"),
        ("resource_schema_url", pa.string(), "schema URL of the resource"),
        ("resource_dropped_attributes_count", pa.int64(), "attributes that the sender dropped"),
        ("resource_entity_refs", pa.string(), "entities of the resource, JSON; null if none"),
        ("p_src_ip", pa.string(), "address of the sender"),
        ("p_user_agent", pa.string(), "User-Agent of the sender"),
        (OVERFLOW, pa.string(), "labels without a column of their own, JSON; null if none"),
    )
)

EVENT_COLUMNS: tuple[FixedColumn, ...] = tuple(
    FixedColumn(*row)
    for row in (
        ("p_timestamp", TIMESTAMP, "arrival time: when rayotel received the event"),
        ("time_unix_nano", TIMESTAMP, "event time; arrival time if the event is unreadable"),
        ("event_id", pa.string(), "id of the event, hexadecimal; each event is stored once"),
        ("event_type", pa.string(), "TASK_LIFECYCLE_EVENT and so on; null if unreadable"),
        ("source_type", pa.string(), "component of Ray that made it: GCS, CORE_WORKER and so on"),
        ("severity", pa.string(), "severity, as sent"),
        ("session_name", pa.string(), "Ray's name of the cluster's session"),
        ("message", pa.string(), "message of the event; null if empty"),
        ("reporter_node_id", pa.string(), "id of the node that sent the event, hexadecimal"),
        ("node_id", pa.string(), "id of the event's node, hexadecimal; null if none"),
        ("job_id", pa.string(), "id of the event's job, hexadecimal: 01000000"),
        ("task_id", pa.string(), "id of the event's task, hexadecimal"),
        ("task_attempt", pa.int64(), "attempt of the task, counted from 0"),
        ("actor_id", pa.string(), "id of the event's actor, hexadecimal"),
        ("worker_id", pa.string(), "id of the event's worker, hexadecimal"),
        ("placement_group_id", pa.string(), "id of the event's placement group, hexadecimal"),
        ("state", pa.string(), "state after the last of the event's transitions"),
        ("event", pa.string(), "payload of the event, JSON, with identifiers in hexadecimal"),
        ("problem", pa.string(), "reason why the event is unreadable; null if it is readable"),
        ("p_src_ip", pa.string(), "address of the sender"),
        ("p_user_agent", pa.string(), "User-Agent of the sender"),
        (
            OVERFLOW,
            pa.string(),
            "labels without a column, and members of the event beside its payload, JSON",
        ),
    )
)

METRIC_TYPES: dict[str, pa.DataType] = {column.name: column.type for column in METRIC_COLUMNS}
EVENT_TYPES: dict[str, pa.DataType] = {column.name: column.type for column in EVENT_COLUMNS}
_METRIC_NAMES = frozenset(METRIC_TYPES)
# engines that read hive-style folders make columns of these
_DIRECTORIES = frozenset({"date", "hour"})
_ATTRIBUTE_PREFIXES = ("metric_", "resource_", "scope_")
_LABEL_PREFIXES = (*_ATTRIBUTE_PREFIXES, "data_point_", "header_", "p_")


FIRST_LABEL_ID = 1000
_MEMBER_IDS, _MEMBERS = 100, 10


def field_id(name: str, places: Mapping[str, int]) -> int:
    """The Parquet field id of a column, by which engines know it whatever its case.

    A fixed column has its place, counted from 1: `places` are those of a signal, so a new column
    is put at the end. A label's column has a number from a hash of its name, the same for every
    receiver and year.
    """
    place = places.get(name)
    return _label_id(name.lower()) if place is None else place + 1


@functools.lru_cache(1 << 14)
def _label_id(folded: str) -> int:
    digest = hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return FIRST_LABEL_ID + int.from_bytes(digest, "big") % 2**30


def with_ids(columns: pa.Schema, places: Mapping[str, int]) -> pa.Schema:
    """The same columns with their field ids, members of lists and structs included."""
    return pa.schema([_identified(field, field_id(field.name, places), None) for field in columns])


def _identified(field: pa.Field, number: int, members: Iterator[int] | None) -> pa.Field:
    kind = field.type
    # of a fixed column with members: an element has the first of ten ids, its fields the next
    if members is None and pa.types.is_nested(kind):
        members = iter(range(_MEMBER_IDS + number * _MEMBERS, FIRST_LABEL_ID))
    if pa.types.is_list(kind):
        assert members is not None
        kind = pa.list_(_identified(kind.value_field, next(members), members))
    elif pa.types.is_struct(kind):
        assert members is not None
        kind = pa.struct([_identified(member, next(members), members) for member in kind])
    return pa.field(field.name, kind, field.nullable, {"PARQUET:field_id": str(number)})


def label_column(prefix: str, key: str) -> str:
    """Column of an attribute; `prefix` is `metric_`, `resource_` or `scope_`. Rule 1 above."""
    plain = prefix + key
    if plain.lower() in _METRIC_NAMES or key[:6].lower() == "label_":
        return f"{prefix}label_{key}"
    return plain


def header_column(name: str, fixed_names: Collection[str] = _METRIC_NAMES) -> str:
    """Column of the header `X-P-<name>`; `name` without the `X-P-`. Rule 1 above.

    `fixed_names`: the fixed columns of the signal.
    """
    plain = name.lower().replace("-", "_")
    if plain in fixed_names or plain in _DIRECTORIES or plain.startswith(_LABEL_PREFIXES):
        return f"header_{plain}"
    return plain


def in_microseconds(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column as `kind`, whose times are microseconds; parts of 0.1.0 have nanoseconds.

    What is less than a microsecond is cut off; no time is before 1970.
    """
    return column if column.type == kind else column.cast(kind, safe=False)


def is_of_header(column: str) -> bool:
    """Whether a label column is one of a header."""
    return not column.lower().startswith(_ATTRIBUTE_PREFIXES)


def fits_a_column(column: str) -> bool:
    """Whether a label's name can be a column name at all. Rule 4 above."""
    has_controls = any(unicodedata.category(character) == "Cc" for character in column)
    return 0 < len(column) <= MAX_COLUMN_NAME_CHARACTERS and not has_controls


def origin(column: str, columns: Iterable[FixedColumn]) -> str:
    """In words, what a column holds: for `rayotel streams NAME --schema`."""
    for fixed in columns:
        if fixed.name == column:
            return fixed.description
    for prefix, what in (
        ("metric_", "point attribute"),
        ("resource_", "resource attribute"),
        ("scope_", "scope attribute"),
        ("header_", "header X-P-"),
    ):
        if column.startswith(prefix):
            key = column.removeprefix(prefix)
            escaped = key.removeprefix("label_")
            joint = "" if prefix == "header_" else " "
            return f"{what}{joint}{escaped if key != escaped else key}"
    return f"header X-P-{column}"
