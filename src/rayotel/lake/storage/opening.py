"""How a storage is opened by its URL."""

from __future__ import annotations

from rayotel.config import Settings, values
from rayotel.lake.storage.directory import DirectoryStorage
from rayotel.lake.storage.interface import Storage


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
    location = values.s3_location("storage", url)
    if location is None:
        return DirectoryStorage(url)
    from rayotel.lake.storage.s3 import S3Storage  # boto3 takes long to import

    return S3Storage(
        location.bucket,
        location.prefix,
        endpoint=values.endpoint("s3_endpoint", s3_endpoint),
        region=values.region("s3_region", s3_region),
        longest_wait_seconds=longest_wait_seconds,
    )


def storage_of(settings: Settings, *, longest_wait_seconds: float = float("inf")) -> Storage:
    """The storage that the settings name. Touches nothing yet; raises UsageError."""
    return open_storage(
        settings.storage_url,
        s3_endpoint=settings.s3_endpoint,
        s3_region=settings.s3_region,
        longest_wait_seconds=longest_wait_seconds,
    )
