"""How a storage is opened by its URL."""

from __future__ import annotations

import re

from rayotel.errors import UsageError
from rayotel.lake.storage.directory import DirectoryStorage
from rayotel.lake.storage.interface import Storage

_S3_URL = re.compile(r"s3://(?P<bucket>[A-Za-z0-9._-]{1,255})(?P<prefix>(?:/[^?#]*)?)")


def open_storage(
    url: str,
    *,
    s3_endpoint: str = "",
    s3_region: str = "",
    longest_wait_seconds: float = float("inf"),
) -> Storage:
    """The storage at `url`: a directory's path or `s3://bucket/prefix`. Touches nothing yet.

    `longest_wait_seconds`: for a server that is silent, where its usual bound is too patient.
    """
    if "://" not in url:
        return DirectoryStorage(url)
    match = _S3_URL.fullmatch(url)
    if match is None:
        raise UsageError(
            "setting 'storage' is neither a directory nor s3://bucket/prefix",
            hint="for example: --storage s3://my-bucket/rayotel",
        )
    from rayotel.lake.storage.s3 import S3Storage  # boto3 takes long to import

    return S3Storage(
        match["bucket"],
        match["prefix"].strip("/"),
        endpoint=s3_endpoint,
        region=s3_region,
        longest_wait_seconds=longest_wait_seconds,
    )
