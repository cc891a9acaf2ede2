"""A lake in a bucket of any S3-compatible server, by boto3 with path-style addresses.

No other module handles boto3's errors. `_translated` turns each of them into a class of
`StorageError`, which decides whether a retry can help.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.utils import parse_timestamp

from rayotel.errors import (
    StorageDenied,
    StorageError,
    StorageMissing,
    StorageUnavailable,
    UsageError,
)
from rayotel.lake.storage.interface import MAX_PARALLEL_REQUESTS, S3Access, StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 20  # so that an answer that never comes costs no half minute
MAX_ATTEMPTS = 3
FETCH_STEP_BYTES = 1024 * 1024
# an object that is there already: whoever may write it once more ignores `If-None-Match`
PROBE_KEY = "_rayotel/probe"
_TAKEN = {"PreconditionFailed", "412"}
_UNKNOWN_CONDITION = {"NotImplemented", "501", "InvalidArgument", "InvalidRequest", "400"}
_MISSING = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
_DENIED = {
    "AccessDenied", "403", "401", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "AuthorizationHeaderMalformed",
    "AllAccessDisabled", "AccountProblem",
}  # fmt: skip
_HINTS: dict[type[StorageError], str] = {
    StorageMissing: "is there such a bucket? see RAYOTEL_STORAGE and RAYOTEL_S3_ENDPOINT",
    StorageDenied: "are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY right, and allowed to do this?",
    StorageUnavailable: "is the S3 server up and reachable? see RAYOTEL_S3_ENDPOINT, and try again",
}


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = _code_of(error)
        kind = _class_of(code)
        words = f"cannot {what}: the S3 server answered {code}"
        raise kind(words, hint=_HINTS[kind]) from error
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise StorageDenied(
            f"cannot {what}: no S3 credentials, or not all of them",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use an AWS profile",
        ) from error
    except BotoCoreError as error:
        # its text can hold the endpoint and never a secret
        words = f"cannot {what}: {type(error).__name__}: {error}"
        raise StorageUnavailable(words, hint=_HINTS[StorageUnavailable]) from error


def _code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _class_of(code: str) -> type[StorageError]:
    if code in _MISSING:
        return StorageMissing
    return StorageDenied if code in _DENIED else StorageUnavailable


def _session() -> boto3.session.Session:
    """A session that reads a listing's times fast: botocore's own way takes half of a listing."""
    core = botocore.session.get_session()
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    return boto3.session.Session(botocore_session=core)


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # headers have another form
        moment: datetime = parse_timestamp(text)
        return moment


class S3Storage:
    """Objects below `prefix` in `bucket`. `endpoint` is empty for AWS itself.

    Both and the region are what `config.values` lets pass."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        endpoint: str = "",
        region: str = "",
        longest_wait_seconds: float = float("inf"),
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint = endpoint
        self._longest_wait_seconds = longest_wait_seconds
        with _translated(f"use '{self.url}'"):
            self._session = _session()
            # servers without a notion of regions take any; AWS itself redirects to the right one
            self._region = region or self._session.region_name or "us-east-1"
            self._session.get_credentials()
            self._client = self._new_client()
        self._knows_conditions: bool | None = None  # until it was tried
        self._conditions_lock = threading.Lock()

    def _new_client(self) -> S3Client:
        try:
            return self._session.client(
                "s3",
                region_name=self._region,
                endpoint_url=self._endpoint or None,
                config=Config(
                    connect_timeout=min(CONNECT_TIMEOUT_SECONDS, self._longest_wait_seconds),
                    read_timeout=min(READ_TIMEOUT_SECONDS, self._longest_wait_seconds),
                    max_pool_connections=MAX_PARALLEL_REQUESTS,
                    retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
                    s3={"addressing_style": "path"},
                    # newer checksums are unknown to several S3-compatible servers
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )
        except ValueError:
            raise UsageError(
                "setting 's3_endpoint' is not a URL", hint="for example: http://127.0.0.1:9000"
            ) from None

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def access(self) -> S3Access:
        """Endpoint, region and the credentials that boto3 found; raises StorageDenied if none."""
        credentials = self._session.get_credentials()
        if credentials is None:
            raise StorageDenied(
                f"no S3 credentials for '{self.url}'",
                hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use an AWS profile",
            )
        frozen = credentials.get_frozen_credentials()
        return S3Access(
            endpoint=self._endpoint,
            region=self._region,
            key_id=frozen.access_key or "",
            secret=frozen.secret_key or "",
            session_token=frozen.token or "",
        )

    def put(self, key: str, content: memoryview) -> None:
        """One PUT, whole or not at all."""
        with _translated(f"write '{key}' to '{self.url}'"):
            self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + key, Body=bytes(content)
            )

    def put_new(self, key: str, content: memoryview) -> bool:
        """One PUT with `If-None-Match: *`.

        A server that does not know this header is asked for the object before the PUT. Between the
        two another writer could write it, so there names alone must keep writers apart.
        """
        return self._put_new(key, bytes(content))

    def put_new_file(self, key: str, path: Path) -> bool:
        """The same, with a file's content, read as it is sent."""
        with path.open("rb") as source:
            return self._put_new(key, source)

    def _put_new(self, key: str, body: bytes | IO[bytes]) -> bool:
        with self._conditions_lock:
            if self._knows_conditions is None:
                self._put_if_new(PROBE_KEY, b"")
                # 412 the second time, or the header means nothing there
                self._knows_conditions = self._put_if_new(PROBE_KEY, b"") is False
        if self._knows_conditions:
            is_put = self._put_if_new(key, body)
            if is_put is not None:
                return is_put
            if not isinstance(body, bytes):
                body.seek(0)
        if self._is_there(key):
            return False
        with _translated(f"write '{key}' to '{self.url}'"):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=body)
        return True

    def _put_if_new(self, key: str, body: bytes | IO[bytes]) -> bool | None:
        """Whether the object was written; None where the server does not know the condition."""
        with _translated(f"write '{key}' to '{self.url}'"):
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._prefix + key, Body=body, IfNoneMatch="*"
                )
            except ClientError as error:
                code = _code_of(error)
                if code in _TAKEN:
                    return False
                if code in _UNKNOWN_CONDITION:
                    return None
                raise
        return True

    def _is_there(self, key: str) -> bool:
        try:
            with _translated(f"look for '{key}' in '{self.url}'"):
                self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except StorageMissing:
            return False
        return True

    def fetch(self, key: str, path: Path) -> None:
        """One GET, written as it comes."""
        with _translated(f"read '{key}' from '{self.url}'"):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            with path.open("wb") as file:
                for piece in answer["Body"].iter_chunks(FETCH_STEP_BYTES):
                    file.write(piece)

    def read(self, key: str) -> bytes:
        """One GET."""
        with _translated(f"read '{key}' from '{self.url}'"):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            content: bytes = answer["Body"].read()
            return content

    def read_range(self, key: str, offset: int, size_bytes: int) -> bytes:
        """One GET of a range."""
        with _translated(f"read '{key}' from '{self.url}'"):
            answer = self._client.get_object(
                Bucket=self._bucket,
                Key=self._prefix + key,
                Range=f"bytes={offset}-{offset + size_bytes - 1}",
            )
            content: bytes = answer["Body"].read()
            return content

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """Pages of up to 1,000 objects."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        with _translated(f"list '{self.url}'"):
            for page in pages:
                for item in page.get("Contents", ()):
                    yield StoredObject(
                        item["Key"].removeprefix(self._prefix),
                        item["Size"],
                        item["LastModified"].timestamp(),
                    )

    def unfinished(self) -> Iterator[StoredObject]:
        """Nothing: a PUT that does not end leaves nothing."""
        return iter(())

    def folders(self, prefix: str) -> list[str]:
        """Common prefixes up to the next `/`."""
        start = self._prefix + prefix
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=start, Delimiter="/"
        )
        with _translated(f"list '{self.url}'"):
            return [
                item["Prefix"].removeprefix(start).rstrip("/")
                for page in pages
                for item in page.get("CommonPrefixes", ())
            ]

    def delete(self, key: str) -> None:
        """One DELETE; S3 answers the same for a missing object."""
        with _translated(f"delete '{key}' in '{self.url}'"):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def close(self) -> None:
        """Close the pool of connections."""
        self._client.close()
