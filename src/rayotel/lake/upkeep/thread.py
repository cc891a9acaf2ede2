"""The server's thread that keeps its lake small: it moves an old lake, then runs its passes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from rayotel.errors import DataDirectoryBusy, LakeError, RayotelError, StorageError
from rayotel.lake.layout import Span
from rayotel.lake.upkeep.compactor import Compactor, Pass, Tidied
from rayotel.logs import Failing, log_event

STOP_TIMEOUT_SECONDS = 60.0
YOUNG_INTERVAL_SECONDS = 30.0

logger = logging.getLogger(__name__)


class CompactorThread:
    """Runs a pass every so often. `start`, then `stop`; a failure is reported and tried again."""

    def __init__(
        self,
        compactor: Compactor,
        receiver: Callable[[], str],
        interval_seconds: float,
        done: Callable[[Tidied], None],
        written: Callable[[], Span | None] = lambda: None,
    ) -> None:
        """`written`: the segments of this run that are wholly on storage; None: none yet."""
        self._compactor = compactor
        self._receiver = receiver
        self._interval_seconds = interval_seconds
        self._done = done
        self._stopping = threading.Event()
        self._work = Pass(written, self._stopping.is_set)
        self._thread = threading.Thread(target=self._run, name="compactor", daemon=True)
        self._failing = Failing()
        self._is_damage = False

    def start(self) -> None:
        """Begin; the first pass comes after one interval."""
        self._thread.start()

    def stop(self) -> None:
        """End after the hour that is being merged; a longer one is given up unharmed."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_SECONDS)

    def _run(self) -> None:
        due = time.monotonic() + self._interval_seconds
        pause = min(self._interval_seconds, YOUNG_INTERVAL_SECONDS)
        self._try(self._prepare)
        while not self._stopping.wait(pause):
            is_whole = time.monotonic() >= due
            if is_whole:
                due = time.monotonic() + self._interval_seconds
            self._try(self._whole if is_whole else self._young)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (StorageError, LakeError, DataDirectoryBusy, OSError) as error:
            self._tell_failure(error)
        except Exception as error:
            log_event(logger, logging.ERROR, "unexpected error in compaction", error=error)

    def _prepare(self) -> None:
        self._compactor.move_old_lake(self._work)

    def _whole(self) -> None:
        self._prepare()
        self._pass(self._compactor.tidy, is_whole=True)

    def _young(self) -> None:
        self._pass(self._compactor.tidy_young, is_whole=False)

    def _pass(self, tidy: Callable[[str, Pass], Tidied], *, is_whole: bool) -> None:
        started = time.monotonic()
        done = tidy(self._receiver(), self._work)
        self._done(done)
        if done.hours or done.removed:
            log_event(
                logger,
                logging.INFO if is_whole else logging.DEBUG,
                "compaction merged parts" if done.hours else "compaction removed covered parts",
                hours=done.hours,
                parts_merged=done.inputs,
                rows=done.rows,
                repeats_removed=done.repeated,
                parts_removed=done.removed,
                seconds=round(time.monotonic() - started, 1),
            )
        if done.error is not None:
            self._tell_failure(done.error, done.failures)
            return
        # a pass over young hours does not meet the part that is damaged
        seconds = self._failing.end() if is_whole or not self._is_damage else None
        if seconds is not None:
            log_event(logger, logging.INFO, "compaction works again", failed_seconds=seconds)

    def _tell_failure(self, error: Exception, failures: int = 1) -> None:
        self._is_damage = isinstance(error, LakeError)
        words = error.message if isinstance(error, RayotelError) else str(error)
        is_news = self._failing.begin(words if self._is_damage else type(error))
        level = logging.ERROR if self._is_damage else logging.WARNING
        log_event(
            logger,
            level if is_news else logging.DEBUG,
            "compaction fails and is tried again",
            reason=words,
            failures=failures,
            hint=error.hint if isinstance(error, RayotelError) else None,
        )
