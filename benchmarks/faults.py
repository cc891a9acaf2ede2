"""Let calls of a server fail under load, once and for a while, and print how it recovers.

    faults.py [--seconds N] [--jobs N] [--only PATTERN] [--kill] [--list] [--logs DIR]

Each case has a server of its own, which clients send numbered points all the while. A failure is
met once, or lasts for `--seconds`. Then the server has half a minute to acknowledge, commit and
merge again, without a restart. It is stopped in the end, and every acknowledged number must be
there once. With `--kill` the server gets SIGKILL while the failure lasts, and a life without it.

Seams: `durable`, the functions that make files durable; `os`, what those call, which does half of
its work in the rows with `half done`; `directory`, the methods of a storage; `s3`, requests to a
real S3 server; `process`, limits of the operating system.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from rayotel.lake.storage.opening import open_storage
from support.fault_proxy import Fault, FaultProxy, Kind
from support.faults import Cause, FaultyServer, Figures, limited, measure, open_files, played
from support.faulty_server import Failure, durable_functions, storage_methods, system_calls
from support.harness import S3_KEY_ID, S3_SECRET, make_bucket, s3_server

RECOVERY_SECONDS = 30.0
PATIENCE_SECONDS = 90.0
DISK_ERRORS = ("EIO", "ENOSPC", "EMFILE", "EACCES")
STORAGE_ERRORS = ("EIO", "ENOSPC", "EACCES", "ENOENT")
REQUESTS = {
    "PUT": r"^PUT ",
    "GET": r"^GET .*\.parquet",
    "LIST": r"^GET .*list-type",
    "DELETE": r"^DELETE ",
    "all": "",
}
S3_FAULTS = {
    "403": Fault(Kind.STATUS, status=403),
    "404": Fault(Kind.STATUS, status=404),
    "500": Fault(Kind.STATUS, status=500),
    "503": Fault(Kind.STATUS, status=503),
    "timeout": Fault(Kind.SILENT),
    "reset": Fault(Kind.RESET),
    "answer lost": Fault(Kind.LOST_ANSWER),
    "never answered": Fault(Kind.FORGOTTEN),
}
LIMITS = {
    "RLIMIT_NOFILE": (resource.RLIMIT_NOFILE, "EMFILE"),
    "RLIMIT_FSIZE": (resource.RLIMIT_FSIZE, "EFBIG"),
}
HALF_DONE = ", half done"
# these are only called after another has failed
AFTER = {"cut": "write_all", "ftruncate": "write", "create": "sync_data"}


@dataclass(frozen=True, slots=True)
class Case:
    """A failure. `seconds`: 0: once."""

    seam: str
    call: str
    error: str
    seconds: float

    def __str__(self) -> str:
        """The first cells of its row."""
        lasts = f"{self.seconds:g} s" if self.seconds else "once"
        return f"{self.seam} | {self.call} | {self.error} | {lasts}"


def of_disk(lasts: float) -> Iterator[Case]:
    """Failures of files."""
    functions, calls = durable_functions(), system_calls()
    yield from (Case("durable", call, error, lasts) for call in functions for error in DISK_ERRORS)
    for call in calls:
        yield Case("os", call, "EIO" + HALF_DONE, lasts)
        yield Case("os", call, "ENOSPC", lasts)
    for call, first in AFTER.items():
        for seam, known in (("durable", functions), ("os", calls)):
            if {call, first} <= set(known):
                yield Case(seam, f"{first}+{call}", "EIO", lasts)


def of_storage(lasts: float) -> Iterator[Case]:
    """Failures of a directory and of S3."""
    for call in storage_methods():
        for error in (*STORAGE_ERRORS, "EIO" + HALF_DONE):
            yield Case("directory", call, error, lasts)
    yield from (Case("s3", call, error, lasts) for call in REQUESTS for error in S3_FAULTS)


def cases(seconds: float) -> list[Case]:
    """All of them, each once and for so long."""
    both = [case for lasts in (0.0, seconds) for of in (of_disk, of_storage) for case in of(lasts)]
    return both + [Case("process", call, error, seconds) for call, (_, error) in LIMITS.items()]


def run(case: Case, top: Path, s3_url: str, *, kills: bool) -> Figures:
    """Run a case on a server of its own."""
    name = re.sub(r"\W+", "-", str(case))
    data_dir = top / name / "data"
    with ExitStack() as stack:
        if case.seam == "s3":
            proxy = stack.enter_context(FaultProxy(s3_url))
            bucket = f"b{abs(hash(case))}"
            make_bucket(s3_url, bucket)
            settings = {
                "RAYOTEL_STORAGE": f"s3://{bucket}/lake",
                "RAYOTEL_S3_ENDPOINT": proxy.url,
                "AWS_ACCESS_KEY_ID": S3_KEY_ID,
                "AWS_SECRET_ACCESS_KEY": S3_SECRET,
            }
            storage = open_storage(settings["RAYOTEL_STORAGE"], s3_endpoint=s3_url)
            server = stack.enter_context(FaultyServer(data_dir, settings))
            cause = _of_s3(case, proxy)
        else:
            storage = open_storage(str(data_dir / "lake"))
            server = stack.enter_context(FaultyServer(data_dir, {}))
            cause = _of_process(case, server)
        if kills:
            cause = replace(cause, end=_both(server.kill_and_start, cause.end))
        return measure(server, storage, cause, case.seconds, PATIENCE_SECONDS)


def _both(first: Callable[[], object], then: Callable[[], object]) -> Callable[[], object]:
    return lambda: (first(), then())


def _of_s3(case: Case, proxy: FaultProxy) -> Cause:
    times = 0 if case.seconds else 1
    fault = replace(S3_FAULTS[case.error], only=REQUESTS[case.call], times=times)
    return Cause(lambda: proxy.play(fault), proxy.heal, lambda: proxy.met)


def _of_process(case: Case, server: FaultyServer) -> Cause:
    if case.seam == "process":
        limit = LIMITS[case.call][0]
        is_files = limit == resource.RLIMIT_NOFILE
        return limited(server, limit, (lambda: open_files(server)) if is_files else (lambda: 4096))
    seam = "storage" if case.seam == "directory" else case.seam
    failure = Failure(
        tuple(f"{seam}.{call}" for call in case.call.split("+")),
        case.error.removesuffix(HALF_DONE),
        times=0 if case.seconds else 1,
        has_effect=case.error.endswith(HALF_DONE),
    )
    return played(server, failure)


def row(case: Case, figures: Figures) -> str:
    """A line of the table."""
    refused = figures.answers[503]
    others = sum(n for status, n in figures.answers.items() if status not in (200, 503))
    firsts = (figures.first_200_seconds, figures.first_part_seconds, figures.first_merge_seconds)
    cells = [
        str(case),
        f"{figures.met:,}",
        f"{figures.answers[200]:,}",
        f"{refused:,}",
        f"{others:,}",
        *("never" if one is None else f"{one:.1f}" for one in firsts),
        f"{figures.acknowledged:,}",
        f"{figures.lost}, {figures.doubled}",
        "" if figures.exit_status == 0 else f"exit {figures.exit_status} ",
    ]
    is_good = figures.has_recovered(RECOVERY_SECONDS)
    if not is_good or others:
        cells[-1] += "**no**"
    else:
        cells[-1] += "yes" if figures.met else "not met"
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="how long a failure lasts")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="servers at once")
    parser.add_argument("--only", default="", help="a pattern of 'seam | call | error | for'")
    parser.add_argument("--kill", action="store_true", help="end each by SIGKILL and a start")
    parser.add_argument("--list", action="store_true", help="print the cases and end")
    parser.add_argument("--logs", type=Path, help="where to keep the words of those that failed")
    given = parser.parse_args()
    chosen = [case for case in cases(given.seconds) if re.search(given.only, str(case))]
    if given.list:
        print("\n".join(map(str, chosen)))
        return
    os.environ.update(AWS_ACCESS_KEY_ID=S3_KEY_ID, AWS_SECRET_ACCESS_KEY=S3_SECRET)
    began, good = time.monotonic(), 0
    print(
        "| seam | call | error | for | met | 200 meanwhile | 503 | other | first 200, s |"
        " first part, s | first merge, s | acknowledged | lost, doubled | recovered |\n"
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        " --- |"
    )
    with tempfile.TemporaryDirectory(prefix="rayotel-faults-") as name, ExitStack() as stack:
        top = Path(name)
        (top / "s3").mkdir()
        s3_url = stack.enter_context(s3_server(top / "s3"))
        pool = stack.enter_context(ThreadPoolExecutor(given.jobs))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)  # where it is interrupted
        done = pool.map(lambda one: run(one, top, s3_url, kills=given.kill), chosen)
        for case, figures in zip(chosen, done, strict=True):
            line = row(case, figures)
            print(line, flush=True)
            is_good = not line.endswith("**no** |")
            good += is_good
            if given.logs is not None and not is_good:
                given.logs.mkdir(exist_ok=True)
                log = given.logs / f"{re.sub(r'[^a-zA-Z0-9]+', '-', str(case))}.log"
                log.write_text(figures.words, "utf-8")
    minutes = (time.monotonic() - began) / 60
    print(f"\n{good} of {len(chosen)} recovered, {minutes:.0f} minutes", file=sys.stderr)


if __name__ == "__main__":
    main()
