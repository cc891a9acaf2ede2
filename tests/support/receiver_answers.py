"""What every answer of the receiver must be, and how its process is doing."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
from google.rpc.status_pb2 import Status
from hypothesis import HealthCheck, Phase, settings

from support.examples import examples
from support.harness import Server

# google.rpc.Code by HTTP status
CODES = {400: 3, 401: 16, 404: 5, 405: 12, 408: 4, 413: 8, 415: 3, 503: 14}
few = settings(
    max_examples=examples(40),
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def refusal(answer: httpx.Response) -> Status:
    """The google.rpc.Status of a refusal, in the format that its request came in."""
    sent = answer.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_protobuf = sent == "application/x-protobuf"
    assert answer.headers["content-type"] == (sent if is_protobuf else "application/json")
    if is_protobuf:
        found = Status.FromString(answer.content)
    else:
        tree = answer.json()
        assert tree.keys() == {"code", "message"}
        found = Status(**tree)
    assert found.code == CODES[answer.status_code]
    assert found.message
    return found


def assert_judged(answer: httpx.Response) -> None:
    """Accepted or refused for good, never a failure of the server."""
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        refusal(answer)


def rss_bytes(server: Server, *, peak: bool = False) -> int:
    """The memory that a server has, or the most it has had."""
    text = Path(f"/proc/{server.pid}/status").read_text("ascii")
    name = "VmHWM" if peak else "VmRSS"
    (kibibytes,) = re.findall(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(kibibytes) * 1024


def counted(server: Server, name: str, auth: tuple[str, str] | None = None) -> dict[str, float]:
    """The values of one of the server's own counters, by its labels as text."""
    lines = server.get("/metrics", auth=auth).text.splitlines()
    pairs = (line.removeprefix(name).rsplit(" ", 1) for line in lines if line.startswith(name))
    return {labels.strip("{}"): float(value) for labels, value in pairs}
