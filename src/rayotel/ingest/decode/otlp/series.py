"""Series: everything about a point except its numbers, made once and remembered.

The memory has the order of requests. A `Context` is a stream with the sender's headers, resource
and scope. A `Head` is one metric of a context, and finds its series by their serialized attributes.
Everything is compared as the bytes or values themselves, and counted in an `Account`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from rayotel.ingest.decode.limits import bounds
from rayotel.ingest.decode.limits.bounds import MAX_SERIES_TEXT_BYTES, Rejected
from rayotel.ingest.decode.limits.budget import text_bytes, text_of_labels
from rayotel.ingest.decode.limits.drops import NO_DROPS, Drops, NameDrops
from rayotel.ingest.decode.otlp import messages
from rayotel.ingest.decode.otlp.attributes import (
    attribute_text,
    attributes_json,
    checked,
    json_text,
    name_of,
    text_of,
)
from rayotel.ingest.decode.otlp.pieces import ScopeKey, check_nested_within, check_nesting
from rayotel.lake.schema import header_column, label_column
from rayotel.model import Arrival, Drop, Series

# measured: a series with nine labels, its key and its places in dictionaries
SERIES_BYTES = 500
LABEL_BYTES = 450
HEAD_BYTES = 3000
# a key under which a series is known beside its first, and what was dropped under it
KEY_BYTES = 250
# what is decided of an attribute, beside its bytes
DECISION_BYTES = 150
_MAX_FRAMED_CHARACTERS = 200
_TEMPORALITIES = {0: "unspecified", 1: "delta", 2: "cumulative"}

Attributes = tuple[bytes, ...]
Fixed = dict[str, str | bool | int | None]


class Account:
    """About how many bytes are remembered. Threads may lose a count to each other, now and then."""

    __slots__ = ("size_bytes",)

    def __init__(self) -> None:
        self.size_bytes = 0


class Label:
    """A column and its text, and what is computed from them once."""

    __slots__ = ("_framed", "folded", "pair")

    def __init__(self, column: str, text: str) -> None:
        self.pair = (column, text)
        self.folded = column.lower()
        # most are small and in many series; a large one is framed when it is needed
        is_small = len(column) + len(text) <= _MAX_FRAMED_CHARACTERS
        self._framed = _framed(column) + _framed(text) if is_small else None

    @property
    def framed(self) -> bytes:
        """What a series hashes of it."""
        if self._framed is None:
            return b"".join([_framed(text) for text in self.pair])
        return self._framed


class Labels:
    """Labels of point attributes by the attribute's bytes: few are ever different."""

    def __init__(self, account: Account) -> None:
        self._known: dict[bytes, Label | None] = {}
        self._columns: dict[str, str] = {}
        self._orders: dict[tuple[str, ...], list[int] | None] = {}
        self._decisions: dict[NameDrops, dict[bytes, Drop | bool]] = {}
        self._account = account

    def of(self, attribute: bytes) -> Label | None:
        """The label of a serialized KeyValue; None where it has no value. Raises Rejected."""
        if attribute in self._known:
            return self._known[attribute]
        try:
            parsed = messages.parse_key_value(attribute)
        except messages.MalformedProtobuf:
            check_nesting(attribute)
            raise
        column = label_column("metric_", name_of(parsed.key))
        text = attribute_text(parsed.value)
        # one text of a column for all series
        column = self._columns.setdefault(column, column)
        label = None if text is None else Label(column, text)
        self._known[attribute] = label
        # serialized, as text and framed, in up to four bytes a character
        self._account.size_bytes += LABEL_BYTES + 6 * len(attribute)
        return label

    @property
    def column_count(self) -> int:
        """How many columns are known."""
        return len(self._columns)

    def kept(
        self, attributes: Attributes, drops: NameDrops, dropped: Iterable[Drop]
    ) -> tuple[Attributes, tuple[Drop, ...]]:
        """The attributes that are kept, and what drops each label that is not, behind `dropped`."""
        decisions = self._decisions.setdefault(drops, {})
        kept: list[bytes] = []
        dropped = [*dropped]
        for raw in attributes:
            decision = decisions.get(raw)
            if decision is None:
                decision = decisions[raw] = _decision(raw, drops)
                self._account.size_bytes += DECISION_BYTES + len(raw)
            if decision is True:
                kept.append(raw)
            elif decision is not False:
                dropped.append(decision)
        return tuple(kept), tuple(dropped)

    def order(self, columns: tuple[str, ...]) -> list[int] | None:
        """Places of these columns in ASCII order; None if two differ only in case."""
        if columns in self._orders:
            return self._orders[columns]
        order: list[int] | None = None
        if len({column.lower() for column in columns}) == len(columns):
            order = sorted(range(len(columns)), key=columns.__getitem__)
        self._orders[columns] = order
        self._account.size_bytes += LABEL_BYTES + 16 * len(columns)
        return order


def _decision(attribute: bytes, drops: NameDrops) -> Drop | bool:
    """What drops a serialized KeyValue; True: it is kept, False: it goes, but is no label."""
    parsed = messages.parse_key_value(attribute)
    drop = drops.of(text_of(parsed.key))
    if drop is None:
        return True
    return drop if parsed.value.WhichOneof("value") is not None else False


class Head:
    """A metric without its points: the common part of its series, and the known series.

    `known`: by the attributes as a tuple, or as the bytes of all of them with their tags.
    `dropped`: by the same keys, each label that a point with these attributes loses; only where
    there is one. `dropped_by`: what drops the metric as a whole; it has no series then. `shape`:
    whatever a faster way of reading remembers of its points.
    """

    __slots__ = (
        "_account", "_drops", "_framed", "_labels", "_outer", "_outer_dropped", "data", "dropped",
        "dropped_by", "fixed", "known", "shape", "shared_text_bytes",
    )  # fmt: skip

    def __init__(
        self, data: str, fixed: Fixed, context: Context, labels: Labels, account: Account
    ) -> None:
        self.data = data
        self.fixed = fixed
        self.known: dict[bytes | Attributes, Series] = {}
        # what its points looked like last, up to their attributes
        self.shape: object = None
        name = str(fixed["metric_name"])
        self.dropped_by = context.drops.metric(name)
        self.dropped: dict[bytes | Attributes, tuple[Drop, ...]] = {}
        self._drops = drops = context.drops.labels_of(name)
        self._outer = context.outer
        self.shared_text_bytes = context.shared_text_bytes
        self._outer_dropped: tuple[Drop, ...] = ()
        if drops is not None:
            of_outer = [None if key is None else drops.of(key) for key in context.outer_keys]
            both = list(zip(context.outer, of_outer, strict=True))
            self._outer = [label for label, drop in both if drop is None]
            self.shared_text_bytes = text_of_labels(label.pair for label in self._outer)
            self._outer_dropped = tuple([drop for drop in of_outer if drop is not None])
        self._labels = labels
        self._account = account
        account.size_bytes += HEAD_BYTES + 4 * sum(len(str(value)) for value in fixed.values())
        names = (context.stream, fixed["metric_name"], fixed["scope_name"], fixed["scope_version"])
        self._framed = b"".join(_framed(str(name or "")) for name in names)

    @property
    def content(self) -> Hashable:
        """Equal for heads whose series may be equal, also where they are of two contexts."""
        return tuple(self.fixed.values()), tuple(sorted([label.pair for label in self._outer]))

    def kept(self, attributes: Attributes) -> tuple[Attributes, tuple[Drop, ...]]:
        """The attributes that are not dropped, and what drops each label that is."""
        if self._drops is None:
            return attributes, ()
        return self._labels.kept(attributes, self._drops, self._outer_dropped)

    def series(
        self, kept: Attributes, key: bytes | Attributes, dropped: tuple[Drop, ...] = ()
    ) -> Series:
        """The series that serialized attributes make, remembered under `key`. Raises Rejected.

        `kept` and `dropped` are what `kept` said of them. Points that differ in nothing but what
        was dropped have the same series.
        """
        if self._drops is None:
            return self._made(kept, key)
        series = self.known.get(kept)
        if series is None:
            series = self._remembered(kept, self._made(kept, kept), self._outer_dropped)
        return self._remembered(key, series, dropped)

    def _remembered(
        self, key: bytes | Attributes, series: Series, dropped: tuple[Drop, ...]
    ) -> Series:
        # in this order: another thread that knows the key must see what was dropped
        if dropped:
            self.dropped[key] = dropped
        self.known[key] = series
        size = len(key) if isinstance(key, bytes) else sum(map(len, key))
        self._account.size_bytes += KEY_BYTES + size
        return series

    def _made(self, attributes: Attributes, key: bytes | Attributes) -> Series:
        if len(attributes) > bounds.MAX_ATTRIBUTES:
            raise Rejected(bounds.MANY_ATTRIBUTES)
        if max(map(len, attributes), default=0) > bounds.MAX_ATTRIBUTE_BYTES:
            raise Rejected(bounds.LONG_ATTRIBUTE)
        labels = self._labels
        all_labels = [*self._outer]
        for raw in attributes:
            label = labels.of(raw)
            if label is not None:
                all_labels.append(label)
        order = labels.order(tuple([label.pair[0] for label in all_labels]))
        spare: list[tuple[str, str]] = []
        if order is not None:
            all_labels = [all_labels[place] for place in order]
            pairs = tuple([label.pair for label in all_labels])
        else:
            pairs = _sorted_out(all_labels, spare)
        # first 64 bits of BLAKE2b over stream, metric, scope and labels, each length-prefixed
        framed = self._framed + b"".join([label.framed for label in all_labels])
        digest = hashlib.blake2b(framed, digest_size=8).digest()
        identity = int.from_bytes(digest, "little", signed=True)
        made = Series(identity, self.fixed, pairs, tuple(spare))
        if text_bytes(made) > MAX_SERIES_TEXT_BYTES:
            raise Rejected(bounds.LONG_SERIES)
        self.known[key] = made
        self._account.size_bytes += SERIES_BYTES + sum(map(len, attributes))
        return made


def _sorted_out(labels: list[Label], spare: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The labels that get a column, and the others into `spare`, where names are alike."""
    # ASCII order decides among names that differ only in case; sort is stable for the rest
    labels.sort(key=_column)
    first: dict[str, Label] = {}
    for label in labels:
        if label.folded in first:
            spare.append(label.pair)
        else:
            first[label.folded] = label
    labels.sort(key=_pair)
    return tuple(label.pair for label in first.values())


def _column(label: Label) -> str:
    return label.pair[0]


def _pair(label: Label) -> tuple[str, str]:
    return label.pair


def _framed(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogatepass")
    return len(raw).to_bytes(4, "little") + raw


class Context:
    """What stream, headers, resource and scope give to each of their points."""

    def __init__(
        self,
        arrival: Arrival,
        key: ScopeKey,
        labels: Labels,
        account: Account,
        drops: Drops = NO_DROPS,
    ) -> None:
        """`key`: the fields around the metrics. Raises MalformedProtobuf, Rejected."""
        resource_metrics, scope_metrics = _parsed(key)
        resource, scope = resource_metrics.resource, scope_metrics.scope
        self.stream = arrival.stream
        self._fixed: Fixed = {**_about_resource(resource_metrics), **_about_scope(scope_metrics)}
        self.drops = drops
        # by key: headers have none, and are not dropped
        outer: list[tuple[str | None, Label]] = [
            *((None, Label(header_column(name), value)) for name, value in arrival.header_columns),
            *_outer_labels("resource_", resource.attributes),
            *_outer_labels("scope_", scope.attributes),
        ]
        self.outer_keys = [key for key, _ in outer]
        self.outer = [label for _, label in outer]
        # what each of its series has of text
        self.shared_text_bytes = text_of_labels(label.pair for label in self.outer)
        if self.shared_text_bytes > MAX_SERIES_TEXT_BYTES:
            raise Rejected(bounds.LONG_SERIES)
        self.heads: dict[object, Head] = {}
        self._labels = labels
        self._account = account
        account.size_bytes += HEAD_BYTES + 6 * sum(len(label.framed) for label in self.outer)

    def head(self, metric: Any) -> Head:
        """A metric of this context, parsed; its data field is set. Raises Rejected."""
        if sum(member.ByteSize() for member in metric.metadata) > bounds.MAX_DESCRIPTION_BYTES:
            raise Rejected(bounds.LONG_DESCRIPTION)
        if len(metric.description) > bounds.MAX_DESCRIPTION_BYTES:
            raise Rejected(bounds.LONG_DESCRIPTION)
        data = metric.WhichOneof("data")
        body = getattr(metric, data)
        temporality = None
        if data not in ("gauge", "summary"):
            number = body.aggregation_temporality
            temporality = _TEMPORALITIES.get(number, str(number))
        fixed: Fixed = {
            "metric_name": name_of(metric.name),
            "metric_type": data,
            "metric_unit": name_of(metric.unit) or None,
            "metric_description": text_of(metric.description) or None,
            "metric_metadata": attributes_json(metric.metadata),
            "aggregation_temporality": temporality,
            "is_monotonic": body.is_monotonic if data == "sum" else None,
            **self._fixed,
        }
        key = tuple(fixed.values())
        head = self.heads.get(key)
        if head is None:
            head = Head(data, fixed, self, self._labels, self._account)
            self.heads[key] = head
        return head


def _parsed(key: ScopeKey) -> tuple[Any, Any]:
    """ResourceMetrics and ScopeMetrics without metrics. Raises MalformedProtobuf, Rejected."""
    try:
        resource_metrics, scope_metrics = messages.parse_around(*key)
    except messages.MalformedProtobuf:
        # attributes of a resource have another number than those of a scope
        check_nested_within(key[0], 0x0A, 0x0A)
        check_nested_within(key[2], 0x0A, 0x1A)
        raise
    return resource_metrics, scope_metrics


def _outer_labels(prefix: str, attributes: Iterable[Any]) -> list[tuple[str, Label]]:
    labels = []
    for attribute in checked(attributes):
        key, text = name_of(attribute.key), attribute_text(attribute.value)
        if text is not None:
            labels.append((key, Label(label_column(prefix, key), text)))
    return labels


def _about_resource(resource_metrics: Any) -> Mapping[str, str | int | None]:
    resource = resource_metrics.resource
    if sum(reference.ByteSize() for reference in resource.entity_refs) > (
        bounds.MAX_DESCRIPTION_BYTES
    ):
        raise Rejected(bounds.LONG_DESCRIPTION)
    references = [
        {
            "type": name_of(reference.type),
            "schema_url": name_of(reference.schema_url),
            "id_keys": [name_of(key) for key in reference.id_keys],
            "description_keys": [name_of(key) for key in reference.description_keys],
        }
        for reference in resource.entity_refs
    ]
    return {
        "resource_schema_url": name_of(resource_metrics.schema_url) or None,
        "resource_dropped_attributes_count": resource.dropped_attributes_count or None,
        "resource_entity_refs": json_text(references) if references else None,
    }


def _about_scope(scope_metrics: Any) -> Mapping[str, str | int | None]:
    scope = scope_metrics.scope
    return {
        "scope_name": name_of(scope.name) or None,
        "scope_version": name_of(scope.version) or None,
        "scope_schema_url": name_of(scope_metrics.schema_url) or None,
        "scope_dropped_attributes_count": scope.dropped_attributes_count or None,
    }
