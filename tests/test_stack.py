"""The demo stack and the Fluent Bit configurations: what can be checked without running them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayotel import config

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
FLUENT_BIT: dict[str, Any] = yaml.safe_load(
    (ROOT / "fluent-bit" / "fluent-bit.yaml").read_text("utf-8")
)
INPUTS: list[dict[str, Any]] = FLUENT_BIT["pipeline"]["inputs"]


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_versions_and_ports_stay_on_loopback(name: str) -> None:
    """Nothing of the stack changes by itself, and nothing of it is reachable from outside."""
    image = SERVICES[name]["image"]
    assert re.search(r":[\w${}.:-]+$", image), image
    assert not image.endswith(":latest")
    for port in SERVICES[name].get("ports", ()):
        assert port.startswith("127.0.0.1:")


def test_the_image_is_built_from_all_that_the_package_needs() -> None:
    """What pyproject.toml puts into the package is not kept from Docker."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]}
    allowed = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE))
    assert all(any(f"{one}/".startswith(f"{path}/") for path in allowed) for one in needed)


def test_every_variable_without_a_default_is_in_the_example() -> None:
    """Whoever copies .env.example has all that the stack asks for."""
    wanted = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text("utf-8")))
    example = (ROOT / ".env.example").read_text("utf-8")
    assert wanted
    assert wanted <= set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_settings_of_rayotel_in_the_stack_exist() -> None:
    """The stack sets nothing that rayotel does not know."""
    known = {f"RAYOTEL_{row.name.upper()}" for row in config.descriptions()}
    for name in ("rayotel", "answers"):
        given = {key for key in SERVICES[name]["environment"] if key.startswith("RAYOTEL_")}
        assert given <= known


def test_variables_of_fluent_bit_in_the_stack_are_read() -> None:
    """What the stack tells Fluent Bit, its configuration asks for."""
    text = (ROOT / "fluent-bit" / "fluent-bit.yaml").read_text("utf-8")
    asked = set(re.findall(r"\$\{(\w+)", text))
    assert set(SERVICES["fluent-bit"]["environment"]) <= asked


@pytest.mark.parametrize("target", INPUTS, ids=lambda target: str(target["alias"]))
def test_each_target_is_labelled_and_buffered(target: dict[str, Any]) -> None:
    """Every endpoint has its labels, one processor each, waits on disk, and is scraped in time."""
    assert target["storage.type"] == "filesystem"
    assert int(target["scrape_interval"].removesuffix("s")) < 20
    labels = target["processors"]["metrics"]
    assert [one["insert"].split()[0] for one in labels] == ["instance", "cluster_id", "job"]
    assert all(one["delete"] == one["insert"].split()[0] for one in labels)
    assert f"{target['host']}:{target['port']}" in labels[0]["insert"]


def test_an_outage_of_an_hour_fits_the_buffer() -> None:
    """What waits is tried again for ever, soon, and there is room for it."""
    (output,) = FLUENT_BIT["pipeline"]["outputs"]
    assert output["retry_limit"] == "no_limits"
    assert FLUENT_BIT["service"]["scheduler.cap"] <= 60
    size = re.fullmatch(r"(\d+)([MG])", str(output["storage.total_limit_size"]))
    assert size
    megabytes = int(size[1]) * (1000 if size[2] == "G" else 1)
    # a head's scrape is a quarter of a megabyte before compression, and there are 360 in an hour
    assert megabytes > len(INPUTS) * 360 * 0.25
