"""Every shipped question answers on the recordings what it answered before."""

from __future__ import annotations

import pytest

from rayotel.lake.storage.interface import Storage
from rayotel.lake.storage.opening import open_storage
from rayotel.query.ray import questions
from support.kept_answers import ANSWERS, LAKES, RENAMED, answer, commit_recordings, kept, path_of

# the lake of both recordings is the one that the fast tests ask
OF_ONE_RECORDING = [
    pytest.param(name, marks=pytest.mark.thorough) for name in LAKES if name != "both"
]


@pytest.fixture(scope="module", params=["both", *OF_ONE_RECORDING])
def lake(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Storage]:
    """A lake of recordings, with its name."""
    storage = open_storage(str(tmp_path_factory.mktemp(request.param)))
    commit_recordings(storage, LAKES[request.param])
    return request.param, storage


@pytest.mark.parametrize("name", [one.name for one in questions.all_queries()])
def test_a_question_answers_what_it_answered(lake: tuple[str, Storage], name: str) -> None:
    """But for the columns that are listed as renamed."""
    named, storage = lake
    assert answer(storage, questions.find(name)) == kept(named, name)


def test_every_kept_answer_has_a_question() -> None:
    """What is kept belongs to a question that is shipped."""
    names = {one.name for one in questions.all_queries()}
    files = {(path.parent.name, path.stem) for path in ANSWERS.rglob("*.csv")}
    assert files == {(lake, name) for lake in LAKES for name in names}


def test_every_renamed_column_was_there_and_is_there() -> None:
    """The list of renamed columns has nothing that is not so."""
    for name, columns in RENAMED.items():
        header = path_of("both", name).read_text("utf-8").partition("\n")[0].split(",")
        assert set(columns) <= set(header), name
        assert set(columns.values()) <= set(questions.find(name).columns), name
