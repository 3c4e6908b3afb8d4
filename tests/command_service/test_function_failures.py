"""What a function of the app raises or returns is an error that names it. It ends neither the process nor the app."""

import logging
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from msgspec import Struct

from twofold import (
    App,
    Conflict,
    DecisionModel,
    FunctionFailed,
    Module,
    Projection,
    Rejected,
    Settings,
    Tag,
    Unavailable,
    View,
)

Id = Annotated[str, Tag("thing")]

ENDINGS = [ZeroDivisionError("zero"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()]


class Do(Struct, frozen=True):
    id: Id
    fails: bool = False


class Done(Struct, frozen=True):
    id: Id
    fails: bool = False


class Ask(Struct, frozen=True):
    fails: bool = False


class Row(Struct, frozen=True):
    id: str
    count: int


@pytest.fixture(autouse=True)
def unlogged() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Things:
    """An app of which one function at a time fails: it raises, or returns what it may not."""

    def __init__(self, where: str, failure: Any) -> None:
        def fail(part: str, failing: bool, otherwise: Callable[[], Any]) -> Any:
            if part != where or not failing:
                return otherwise()
            if isinstance(failure, BaseException):
                raise failure
            return failure

        class Thing(Struct, frozen=True):
            def evolve(self, event: Done) -> Any:
                return fail("evolve", event.fails, lambda: self)

        def do(command: Do, thing: Thing) -> Done:
            return fail("decision", command.fails, lambda: Done(command.id, command.fails))  # type: ignore[no-any-return]

        async def prepare(command: Do) -> Do:
            return fail("prepare", command.fails, lambda: command)  # type: ignore[no-any-return]

        def fold(row: Row | None, event: Done) -> Row | None:
            return fail("fold", event.fails, lambda: Row(event.id, 1))  # type: ignore[no-any-return]

        async def ask(query: Ask, rows: View[Row]) -> list[Row]:
            return fail("query", query.fails, lambda: [])  # type: ignore[no-any-return]

        self.module = Module(
            "things",
            events=[Done],
            models=[DecisionModel(Thing, by=Id)],
            decisions=[do],
            prepare=[prepare],
            projections=[Projection("rows", fold, key=Id)],
            queries=[ask],
        )

    def app(self) -> App:
        settings = Settings(fold_retries=0, poll_seconds=0.02)
        return App(self.module, write_store="memory:", read_store="memory:", settings=settings)


async def goes_on(app: App) -> None:
    """Commands, followers and queries work."""
    receipt = await app.send(Do("other"), wait_for=["rows"])
    assert receipt.late == []
    assert (await app.ask(Ask(), position=receipt.token)).value == []


@pytest.mark.parametrize("error", ENDINGS, ids=lambda error: type(error).__name__)
async def test_a_decision_that_fails_is_named_and_nothing_is_written(error: BaseException) -> None:
    async with Things("decision", error).app() as app:
        with pytest.raises(FunctionFailed, match=rf"^The decision .*do failed with {type(error).__name__}") as caught:
            await app.send(Do("a", fails=True))
        assert caught.value.__cause__ is error
        assert (await app.log()).head == 0
        await goes_on(app)


@pytest.mark.parametrize("error", [Rejected("no"), Conflict("no"), Unavailable("no")])
async def test_an_error_of_twofold_stays_what_it_is(error: Exception) -> None:
    async with Things("decision", error).app() as app:
        with pytest.raises(type(error)) as caught:
            await app.send(Do("a", fails=True))
        assert caught.value is error


@pytest.mark.parametrize("returned", [5, "done", [Done("a"), 5], Do("a"), (Done("a"),)], ids=repr)
async def test_a_decision_that_returns_no_event_is_named_with_what_it_returned(returned: Any) -> None:
    async with Things("decision", returned).app() as app:
        said = r"^The decision .*do returned (int|str|Do|tuple), but a decision returns"
        with pytest.raises(FunctionFailed, match=said):
            await app.send(Do("a", fails=True))
        assert (await app.log()).head == 0
        await goes_on(app)


@pytest.mark.parametrize("error", ENDINGS[:2], ids=lambda error: type(error).__name__)
async def test_a_prepare_step_that_fails_is_named(error: BaseException) -> None:
    async with Things("prepare", error).app() as app:
        with pytest.raises(FunctionFailed, match=rf"^The prepare step .*prepare failed with {type(error).__name__}"):
            await app.send(Do("a", fails=True))
        await goes_on(app)


async def test_a_prepare_step_that_returns_no_command_is_named() -> None:
    async with Things("prepare", None).app() as app:
        with pytest.raises(FunctionFailed, match=r"prepare returned NoneType, but it returns a Do: None"):
            await app.send(Do("a", fails=True))
        await goes_on(app)


@pytest.mark.parametrize("failure", [*ENDINGS, None, 5], ids=repr)
async def test_an_evolve_that_fails_is_named_at_the_next_command_and_the_event_is_written(failure: Any) -> None:
    async with Things("evolve", failure).app() as app:
        await app.send(Do("a", fails=True))
        with pytest.raises(FunctionFailed, match=r"^Thing\.evolve (failed with|returned) "):
            await app.send(Do("a"))
        await goes_on(app)


@pytest.mark.parametrize("error", ENDINGS[:3], ids=lambda error: type(error).__name__)
async def test_a_query_function_that_fails_is_named(error: BaseException) -> None:
    async with Things("query", error).app() as app:
        with pytest.raises(FunctionFailed, match=rf"^The query function .*ask failed with {type(error).__name__}"):
            await app.ask(Ask(fails=True))
        await goes_on(app)


@pytest.mark.parametrize("returned", [5, None, Row("a", 1), {"a": 1}], ids=repr)
async def test_a_query_function_that_returns_what_its_hint_does_not_say_is_named(returned: Any) -> None:
    async with Things("query", returned).app() as app:
        with pytest.raises(FunctionFailed, match=r"ask returned \w+, but its hint says list\["):
            await app.ask(Ask(fails=True))
        await goes_on(app)


@pytest.mark.parametrize("failure", [*ENDINGS, 5, "row", Do("a")], ids=repr)
async def test_a_fold_that_fails_parks_its_key_and_names_what_it_returned(failure: Any) -> None:
    async with Things("fold", failure).app() as app:
        await app.send(Do("a", fails=True), wait_for=["rows"])
        (parked,) = await app.projections.parked("rows")
        assert parked.key == "a"
        raised = isinstance(failure, BaseException)
        assert (type(failure).__name__ if raised else "Projection('rows', fold): the fold returned") in parked.error
        await goes_on(app)
