"""Every shipped question answers on the recordings what it answered before."""

from __future__ import annotations

import pytest

from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.query.ray import questions
from support.kept_answers import ANSWERS, LAKES, answer, path_of, recorded_lake


@pytest.fixture(scope="module", params=LAKES)
def lake(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Storage]:
    """A lake of recordings, with its name."""
    storage = open_storage(str(tmp_path_factory.mktemp(request.param)))
    recorded_lake(storage, LAKES[request.param])
    return request.param, storage


@pytest.mark.parametrize("name", [one.name for one in questions.all_queries()])
def test_a_question_answers_what_it_answered(lake: tuple[str, Storage], name: str) -> None:
    """A change of an answer is seen, and is a change of the file that keeps it."""
    named, storage = lake
    kept = path_of(named, name).read_text("utf-8")
    assert answer(storage, questions.find(name)) == kept, (
        "on purpose? run: python -m support.kept_answers, in tests/"
    )


def test_every_kept_answer_has_a_question() -> None:
    """What is kept belongs to a question that is shipped."""
    names = {one.name for one in questions.all_queries()}
    kept = {(path.parent.name, path.stem) for path in ANSWERS.rglob("*.csv")}
    assert kept == {(lake, name) for lake in LAKES for name in names}
