"""The composition root makes the server's objects, and starts and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import signal as signals
import socket
import sys
from collections.abc import Callable

import uvicorn

from rayotel import __version__
from rayotel.config import Settings
from rayotel.errors import RayotelError, StorageError, UsageError
from rayotel.http.connection import Connection
from rayotel.http.front import Front
from rayotel.ingest.committer import Committer
from rayotel.ingest.decode.decoder import Decoder
from rayotel.ingest.decode.limits.drops import Drops
from rayotel.ingest.receive.admission import Admission
from rayotel.ingest.receive.receiver import Receiver
from rayotel.ingest.wal.journal import Journal
from rayotel.ingest.wal.recent_events import StoredEvents
from rayotel.ingest.wal.stream_signals import StreamSignals
from rayotel.lake import claims, version
from rayotel.lake.signal import SIGNALS
from rayotel.lake.storage.opening import storage_of
from rayotel.lake.upkeep.compactor import Compactor, Schedule, Tidied
from rayotel.lake.upkeep.thread import CompactorThread
from rayotel.logs import log_event
from rayotel.telemetry import Telemetry
from rayotel.web.app import new_app
from rayotel.web.status import About, status_router

GRACEFUL_CONNECTIONS_SECONDS = 10
KEEP_ALIVE_SECONDS = 75
SWITCH_SECONDS = 0.001
# many more objects than Python waits for: a request makes a few hundred that reference each other
GC_THRESHOLDS = (10_000, 20, 20)

logger = logging.getLogger(__name__)


class Service:
    """A server's parts, composed. `open`, serve `app`, `close`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = False
        self.open_connections: Callable[[], int] = int  # until a server tells
        drops = Drops(settings.drop_metrics, settings.drop_labels)
        self.telemetry = Telemetry()
        for drop in drops.all:
            self.telemetry.dropped(drop, 0)
        self.storage = storage_of(settings)
        self.journal = Journal(
            settings.data_dir,
            self.telemetry,
            segment_bytes=settings.wal_segment_bytes,
            limit_bytes=settings.wal_limit_bytes,
            max_waiting_columns_bytes=settings.max_waiting_columns_bytes,
            max_waiting_records=settings.max_requests_in_flight,
            dedupe_window_seconds=settings.dedupe_window_seconds,
            max_requests_remembered=settings.max_requests_remembered,
        )
        self.signals = StreamSignals(
            self.journal.directory / "signals.json",
            lambda stream: claims.holder(self.storage, stream),
            lambda wanted: claims.settle(self.storage, wanted, self.journal.receiver),
        )
        self.stored = StoredEvents(
            self.journal.directory / "events", max_events=settings.max_events_remembered
        )
        self.decoder = Decoder(
            max_inflated_body_bytes=settings.max_inflated_body_bytes,
            max_series_cached_bytes=settings.max_series_cached_bytes,
            drops=drops,
        )
        self.committer = Committer(
            self.journal,
            self.storage,
            self.telemetry,
            self.decoder.decode,
            self.stored,
            self.signals,
            interval_seconds=settings.commit_interval_seconds,
            max_label_columns=settings.max_label_columns,
        )

        self._compactor = CompactorThread(
            Compactor(
                self.storage,
                settings.data_dir / "compaction",
                Schedule(
                    settings.compaction_after_seconds,
                    settings.compaction_grace_seconds,
                    settings.policies,
                ),
                apart=True,
            ),
            lambda: self.journal.receiver,
            settings.compaction_interval_seconds,
            self._tidied,
            lambda: self.journal.written,
        )

    def _tidied(self, done: Tidied) -> None:
        self.telemetry.hours_compacted.inc(done.hours)
        self.telemetry.rows_repeated.labels("merge").inc(done.repeated)
        self.telemetry.parts_removed.inc(done.removed)
        self.telemetry.parts_expired.inc(done.expired)

    def open(self) -> None:
        """Take the data directory, find what earlier runs left, begin to commit and compact.

        Raises LakeError for a lake of a newer rayotel, and WalError.
        """
        with contextlib.suppress(StorageError):  # away: the first pass of compaction looks again
            version.check(self.storage)
        self.journal.open()
        self.signals.open()
        self.stored.open(self.journal.oldest_number)
        self.committer.start()
        self._compactor.start()
        self._ready = True

    def close(self) -> bool:
        """Commit everything and let go. Whether all acknowledged points are on storage."""
        self._ready = False
        self.journal.stop_appending()
        done = self.committer.stop(self._settings.shutdown_timeout_seconds)
        self._compactor.stop()
        if not done:
            log_event(
                logger,
                logging.ERROR,
                "points wait in the WAL and are committed at the next start",
                waiting_bytes=self.journal.waiting_bytes,
            )
        self.signals.close()
        self.journal.close()
        self.storage.close()
        return done

    def app(self) -> Front:
        """The ASGI application."""
        settings = self._settings
        receiver = Receiver(
            self.journal,
            self.decoder,
            Admission(
                max_requests=settings.max_requests_in_flight,
                max_bytes=settings.max_bytes_in_flight,
                telemetry=self.telemetry,
            ),
            self.telemetry,
            self.signals,
            default_streams={
                signal.name: getattr(settings, f"{signal.name}_stream", signal.default_stream)
                for signal in SIGNALS
            },
            tokens={
                signal.name: getattr(settings, f"{signal.name}_token", "") for signal in SIGNALS
            },
            max_compressed_body_bytes=settings.max_compressed_body_bytes,
            body_timeout_seconds=settings.body_timeout_seconds,
        )
        about = About(
            name="rayotel",
            version=__version__,
            receiver=self.journal.receiver,
            storage=self.storage.url,
            commit_interval_seconds=settings.commit_interval_seconds,
        )
        framework = new_app()
        framework.include_router(status_router(about, lambda: self._ready, self.telemetry))
        return Front(
            framework,
            receiver.handlers(),
            self.telemetry,
            credentials=(settings.username, settings.password)
            if settings.has_credentials
            else None,
            max_connections=settings.max_connections,
            open_connections=lambda: self.open_connections(),
        )


def serve(settings: Settings) -> int:
    """Run a server until SIGTERM or SIGINT; the process's exit status.

    0: every acknowledged point is in a part. 1: some wait in the WAL for the next start.
    """
    address = _address(settings)
    service = Service(settings)  # a setting that cannot be used is an error before the port is
    listener = _listen(settings, address)
    try:
        service.open()
    except RayotelError:
        listener.close()
        raise
    _tell_start(settings, service, listener)
    try:
        _run(service, listener)
    finally:
        waiting_bytes = service.journal.waiting_bytes
        log_event(
            logger,
            logging.INFO,
            "rayotel stops: what waits in the WAL is committed",
            waiting_bytes=waiting_bytes,
        )
        done = service.close()
        log_event(logger, logging.INFO, "rayotel has stopped", everything_is_stored=done)
    return 0 if done else 1


def _tell_start(settings: Settings, service: Service, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    log_event(
        logger,
        logging.INFO,
        "rayotel has started",
        version=__version__,
        url=f"http://{f'[{host}]' if ':' in host else host}:{port}",
        receiver=service.journal.receiver,
        storage=service.storage.url,
        s3_endpoint=settings.s3_endpoint or None,
        data_dir=str(settings.data_dir.absolute()),
        credentials=settings.has_credentials,
        commit_interval_seconds=settings.commit_interval_seconds,
        wal_limit_bytes=settings.wal_limit_bytes,
        retention=str(settings.retention),
    )


def _run(service: Service, listener: socket.socket) -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            service.app(),
            # the other parser, httptools, takes headers without a bound and requests without a host
            http=Connection,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACEFUL_CONNECTIONS_SECONDS,
            server_header=False,
        )
    )
    service.open_connections = lambda: len(server.server_state.connections)
    # requests wait no longer than this for a thread that decodes or commits
    sys.setswitchinterval(SWITCH_SECONDS)
    # what was imported stays: a full collection would keep every request waiting to go through it
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    # uvicorn raises the signal that stopped it once more at its end; by then it has done its work
    for number in (signals.SIGTERM, signals.SIGINT):
        signals.signal(number, lambda *_: None)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))


_Address = tuple[socket.AddressFamily, socket.SocketKind, int, tuple[object, ...]]


def _address(settings: Settings) -> _Address:
    """Where to listen. Raises UsageError where that is nowhere, or open to the world."""
    try:
        candidates = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError):
        raise UsageError("setting 'host' is not an address of this machine") from None
    _refuse_open_door(settings, [str(candidate[4][0]) for candidate in candidates])
    family, kind, protocol, _, address = candidates[0]
    return family, kind, protocol, address


def _listen(settings: Settings, at: _Address) -> socket.socket:
    family, kind, protocol, address = at
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise RayotelError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror}",
            hint="choose another with --port or RAYOTEL_PORT",
        ) from None
    listener.setblocking(False)
    return listener


def _refuse_open_door(settings: Settings, addresses: list[str]) -> None:
    if settings.has_credentials or settings.insecure:
        return
    if not all(
        ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses
    ):
        raise UsageError(
            f"will not listen on '{settings.host}' without credentials: anybody could write",
            hint="set RAYOTEL_USERNAME and RAYOTEL_PASSWORD, or give --insecure",
        )
