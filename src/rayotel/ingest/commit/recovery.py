"""Records that were set aside and are asked back go to the WAL again, each once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from rayotel.errors import WalError
from rayotel.ingest.wal import aside
from rayotel.ingest.wal.journal import Journal
from rayotel.ingest.wal.recent_requests import digest_of
from rayotel.logs import Failing, log_event
from rayotel.model import Batch, Record
from rayotel.telemetry import Telemetry

MAX_WAIT_SECONDS = 60.0  # for the WAL to take one record

logger = logging.getLogger(__name__)


class Recovery:
    """Takes in what `rayotel recover` asks back for one WAL."""

    def __init__(
        self, journal: Journal, decode: Callable[[Record], Batch], telemetry: Telemetry
    ) -> None:
        self._journal = journal
        self._decode = decode
        self._telemetry = telemetry
        self._failing = Failing()

    def take_in(self) -> None:
        """Write every record that is asked back to the WAL; what fails is tried again later."""
        taken = 0
        try:
            for path, record in aside.asked_back(self._journal.directory):
                taken += self._take(path, record)
        except (WalError, OSError, TimeoutError) as error:
            is_news = self._failing.begin(type(error))
            log_event(
                logger,
                logging.ERROR if is_news else logging.DEBUG,
                "a record cannot be taken in again, which is tried later",
                reason=str(error),
            )
        else:
            self._failing.end()
        if taken:
            self._telemetry.records_recovered.inc(taken)
            log_event(logger, logging.INFO, "records are taken in again", records=taken)

    def _take(self, path: Path, record: Record) -> bool:
        """Write one record to the WAL; whether it is there now."""
        digest = digest_of(record)
        if self._journal.earlier(digest) is None:
            try:
                batch = self._decode(record)
            except ValueError as error:
                aside.refuse(self._journal.directory, path)
                log_event(
                    logger,
                    logging.ERROR,
                    "a record still cannot be decoded and stays aside",
                    record=path.name,
                    reason=str(error),
                )
                return False
            if batch.accepted_rows:
                self._journal.append(record, batch, digest).result(MAX_WAIT_SECONDS)
        aside.done(path)
        return True
