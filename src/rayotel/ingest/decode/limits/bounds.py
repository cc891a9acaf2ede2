"""Bounds of what a request may hold, each with its reason, and the words by which it is rejected.

The recordings hold at most 755 points, 127 metrics, 43 label keys and one hour in a request, 14
attributes a point, 81 bytes an attribute, 60 a name, 341 a description and 20 buckets. Every bound
is more than ten times that. Whatever is beyond a bound is rejected by itself, and counted.
"""

from __future__ import annotations

from datetime import UTC, datetime

from rayotel.model import NANOSECONDS_PER_SECOND

EARLIEST_UNIX_NANO = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * NANOSECONDS_PER_SECOND
LATEST_AFTER_ARRIVAL_NANO = 24 * 3600 * NANOSECONDS_PER_SECOND

# of texts, as sent: names, keys, units, versions and URLs; a file holds each in a dictionary
MAX_NAME_BYTES = 4096
# of a description, of all metadata of a metric, and of all entity references of a resource
MAX_DESCRIPTION_BYTES = 16_384
# of one attribute with its key and everything nested in it
MAX_ATTRIBUTE_BYTES = 65_536
# of a resource, a scope or a point; a stream has 512 label columns, and the rest is one JSON text
MAX_ATTRIBUTES = 1024
# messages within each other in an attribute: protobuf's library stops at 100 in a whole request
MAX_NESTING = 84
# of a resource or a scope as sent, and of all texts of one series with what it shares
MAX_SERIES_TEXT_BYTES = 262_144
# of all series of a request: each hashes and stores its texts, also those that it shares. A body of
# the largest size that is nothing but new series of Ray has less
MAX_REQUEST_TEXT_BYTES = 24 * 1024 * 1024
# at most, of a character that is not ASCII
CHARACTER_BYTES = 3
# what a label costs a series beside its text
LABEL_TEXT_BYTES = 16

# of a point as sent: a histogram of 16,000 buckets
MAX_POINT_BYTES = 262_144
MAX_POINT_NUMBERS = 32_768  # buckets, bounds and quantiles
MAX_POINT_EXEMPLARS = 1024
MAX_REQUEST_NUMBERS = 2_000_000
MAX_REQUEST_EXEMPLARS = 50_000
# a metric or a scope that is seen first costs some kilobytes, a series about one
MAX_REQUEST_METRICS = 10_000
MAX_REQUEST_SCOPES = 5000
MAX_REQUEST_SERIES = 50_000
MAX_REQUEST_POINTS = 500_000
MAX_REQUEST_COLUMNS = 4096
# a year has 8,784; each hour becomes a file
MAX_REQUEST_HOURS = 10_000

# of points in JSON: each takes protobuf's library some microseconds
MAX_REQUEST_JSON_VALUES = 2_000_000

# each reason is a label of a metric: a fixed few
LONG_NAME = f"a name, key, unit, version or URL is larger than {MAX_NAME_BYTES} bytes"
LONG_DESCRIPTION = (
    f"a description, metadata or entities are larger than {MAX_DESCRIPTION_BYTES} bytes"
)
LONG_ATTRIBUTE = f"an attribute is larger than {MAX_ATTRIBUTE_BYTES} bytes"
MANY_ATTRIBUTES = f"a resource, scope or point has more than {MAX_ATTRIBUTES} attributes"
DEEP_ATTRIBUTE = "an attribute is nested too deeply"
LONG_SERIES = f"a resource, scope or series has more than {MAX_SERIES_TEXT_BYTES} bytes of text"
LONG_REQUEST = f"the request's series have more than {MAX_REQUEST_TEXT_BYTES} bytes of text"
LARGE_POINT = f"a point is larger than {MAX_POINT_BYTES} bytes"
MANY_NUMBERS = f"a point has more than {MAX_POINT_NUMBERS} buckets or quantiles"
MANY_EXEMPLARS = f"a point has more than {MAX_POINT_EXEMPLARS} exemplars"
REQUEST_NUMBERS = f"the request has more than {MAX_REQUEST_NUMBERS} buckets or quantiles"
REQUEST_EXEMPLARS = f"the request has more than {MAX_REQUEST_EXEMPLARS} exemplars"
REQUEST_JSON_VALUES = (
    f"the request has more than {MAX_REQUEST_JSON_VALUES} objects and lists of JSON"
)
REQUEST_METRICS = f"the request has more than {MAX_REQUEST_METRICS} metrics"
REQUEST_SCOPES = f"the request has more than {MAX_REQUEST_SCOPES} scopes"
REQUEST_SERIES = f"the request has more than {MAX_REQUEST_SERIES} series"
REQUEST_POINTS = f"the request has more than {MAX_REQUEST_POINTS} points"
REQUEST_COLUMNS = f"the request has more than {MAX_REQUEST_COLUMNS} label columns"
REQUEST_HOURS = f"the request has points of more than {MAX_REQUEST_HOURS} hours"


class Rejected(ValueError):
    """A part of a request is beyond a bound; its text is the reason, one of the above."""
