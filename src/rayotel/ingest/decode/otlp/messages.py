"""OTLP messages for the decoder: the official descriptors, changed in two places.

The messages are made at import from the descriptors of `opentelemetry-proto`, so they have the same
fields and read the same bytes. The two changes:

- Every `string` is read as `bytes`. If one string has bytes that are not UTF-8, the official
  classes refuse the whole request. Here only the string is mended.
- The attributes of a point stay serialized. Their bytes are the same in every scrape, so they are
  the key of a known series, and are parsed only once per series.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1 import resource_pb2

_OFFICIAL, _OURS = "opentelemetry.proto", "rayotel.wire"
_DATA_POINTS = {
    "NumberDataPoint",
    "HistogramDataPoint",
    "ExponentialHistogramDataPoint",
    "SummaryDataPoint",
}


def _changed(official: FileDescriptorProto) -> FileDescriptorProto:
    ours = FileDescriptorProto.FromString(official.SerializeToString())
    ours.name = ours.name.replace("opentelemetry/proto", "rayotel/wire")
    ours.package = ours.package.replace(_OFFICIAL, _OURS)
    ours.ClearField("options")
    ours.ClearField("source_code_info")
    ours.ClearField("service")
    for position, name in enumerate(ours.dependency):
        ours.dependency[position] = name.replace("opentelemetry/proto", "rayotel/wire")
    for message in ours.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(_OFFICIAL, _OURS)
            serialized = message.name in _DATA_POINTS and field.name == "attributes"
            if field.type == FieldDescriptorProto.TYPE_STRING or serialized:
                field.type = FieldDescriptorProto.TYPE_BYTES
                field.ClearField("type_name")
    return ours


def _messages() -> tuple[type[Message], type[Message]]:
    pool = descriptor_pool.DescriptorPool()
    for module in (common_pb2, resource_pb2, metrics_pb2, metrics_service_pb2):
        official = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(official)
        pool.Add(_changed(official))
    request = pool.FindMessageTypeByName(
        f"{_OURS}.collector.metrics.v1.ExportMetricsServiceRequest"
    )
    key_value = pool.FindMessageTypeByName(f"{_OURS}.common.v1.KeyValue")
    return message_factory.GetMessageClass(request), message_factory.GetMessageClass(key_value)


_Request, _KeyValue = _messages()


class MalformedProtobuf(ValueError):
    """The bytes are no message of the expected type."""


def parse_metrics_request(body: bytes) -> Any:
    """An ExportMetricsServiceRequest with the two changes; raises MalformedProtobuf."""
    return _parse(_Request, body)


def parse_around(resource: bytes, resource_url: bytes, scope: bytes, scope_url: bytes) -> Any:
    """The (ResourceMetrics, ScopeMetrics) that these fields, each with its tag, stand in."""
    inner = delimited(b"\x12", scope + scope_url)
    request = parse_metrics_request(delimited(b"\x0a", resource + inner + resource_url))
    resource_metrics = request.resource_metrics[0]
    return resource_metrics, resource_metrics.scope_metrics[0]


def parse_metric(raw: bytes) -> Any:
    """A serialized Metric, parsed as deep inside a request as it was sent."""
    inner = delimited(b"\x0a", delimited(b"\x12", delimited(b"\x12", raw)))
    return parse_metrics_request(inner).resource_metrics[0].scope_metrics[0].metrics[0]


def delimited(tag: bytes, content: bytes) -> bytes:
    """A field of bytes."""
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return tag + bytes((*length, size)) + content


def parse_key_value(attribute: bytes) -> Any:
    """A KeyValue that was kept serialized; raises MalformedProtobuf."""
    return _parse(_KeyValue, attribute)


def _parse(kind: type[Message], content: bytes) -> Any:
    try:
        return kind.FromString(content)
    except DecodeError:
        raise MalformedProtobuf(f"not a protobuf {kind.DESCRIPTOR.name}") from None
