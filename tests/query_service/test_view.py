"""A view finds the row of any key that rows are kept under, and tells what it does not take, alike in every life."""

from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from twofold.app import App
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.domain.tags import Tag
from twofold.errors import InvalidMessage, Unavailable
from twofold.query_service.view import MAX_FIND, View
from twofold.settings import Settings


class Plain(Enum):
    RED = "red"


class Text(str, Enum):  # noqa: UP042 - its `str` is "Text.RED", unlike that of a StrEnum
    RED = "red"


class Newer(StrEnum):
    RED = "red"


class Number(IntEnum):
    RED = 7


PlainId = Annotated[Plain, Tag("colour")]
TextId = Annotated[Text, Tag("colour")]
NewerId = Annotated[Newer, Tag("colour")]
NumberId = Annotated[Number, Tag("colour")]


class MixPlain(msgspec.Struct, frozen=True):
    colour: PlainId


class MixText(msgspec.Struct, frozen=True):
    colour: TextId


class MixNewer(msgspec.Struct, frozen=True):
    colour: NewerId


class MixNumber(msgspec.Struct, frozen=True):
    colour: NumberId


class Mixed(msgspec.Struct, frozen=True):
    colour: Annotated[str, Tag("colour")]
    fails: bool = False


class Break(msgspec.Struct, frozen=True):
    colour: Annotated[str, Tag("colour")]


class Uses(msgspec.Struct, frozen=True):
    n: int = 0


class Of(msgspec.Struct, frozen=True):
    """Asked for in the process, with whatever key a query function may have at hand."""

    key: Any


class Some(msgspec.Struct, frozen=True):
    limit: int


def mix_plain(command: MixPlain) -> Mixed:
    return Mixed(command.colour.value)


def mix_text(command: MixText) -> Mixed:
    return Mixed(command.colour.value)


def mix_newer(command: MixNewer) -> Mixed:
    return Mixed(command.colour.value)


def mix_number(command: MixNumber) -> Mixed:
    return Mixed(str(command.colour.value))


def break_it(command: Break) -> Mixed:
    return Mixed(command.colour, fails=True)


def used(row: Uses | None, event: Mixed) -> Uses:
    if event.fails:
        raise ValueError("broken")
    return Uses((row.n if row else 0) + 1)


async def of(query: Of, uses: View[Uses]) -> Uses | None:
    return await uses.get(query.key)


async def some(query: Some, uses: View[Uses]) -> list[Uses]:
    return await uses.find(limit=query.limit)


def colours(lifecycle: Any, read_store: str = "memory:") -> App:
    module = Module(
        "colours",
        events=[Mixed],
        decisions=[mix_plain, mix_text, mix_newer, mix_number, break_it],
        projections=[Projection("uses", used, key=Annotated[str, Tag("colour")], lifecycle=lifecycle)],
        queries=[of, some],
    )
    return App(
        module, write_store="memory:", read_store=read_store, settings=Settings(wait_seconds=2.0, fold_retries=0)
    )


@pytest.mark.parametrize("lifecycle", ["async", "inline", "live"])
async def test_the_row_of_an_enum_is_that_of_its_value(lifecycle: str) -> None:
    async with colours(lifecycle) as app:
        for n, command in enumerate((MixPlain(Plain.RED), MixText(Text.RED), MixNewer(Newer.RED))):
            receipt = await app.send(command)
            for key in (Plain.RED, Text.RED, Newer.RED, "red"):
                assert (await app.ask(Of(key), position=receipt.token)).value == Uses(n + 1), repr(key)
        receipt = await app.send(MixNumber(Number.RED))
        for number in (Number.RED, 7, "7"):
            assert (await app.ask(Of(number), position=receipt.token)).value == Uses(1)


async def test_the_row_of_an_enum_that_is_set_aside_does_not_pose_as_fresh() -> None:
    async with colours("async") as app:
        await app.send(MixText(Text.RED))
        receipt = await app.send(Break("red"))
        for key in (Plain.RED, Text.RED, "red"):
            with pytest.raises(Unavailable, match="'red' of 'uses' is parked"):
                await app.ask(Of(key), position=receipt.token)
            assert (await app.ask(Of(key))).value == Uses(1)


@pytest.mark.parametrize("lifecycle", ["async", "inline", "live"])
@pytest.mark.parametrize("write_store", ["memory:", "sqlite"])
async def test_half_a_surrogate_pair_is_the_callers_mistake_and_told_alike(
    lifecycle: str, write_store: str, tmp_path: Path
) -> None:
    async with colours(lifecycle, write_store if write_store == "memory:" else f"sqlite:///{tmp_path}/views.db") as app:
        with pytest.raises(InvalidMessage, match=r"^key contains half of a surrogate pair") as refused:
            await app.ask(Of("a\ud800"))
        assert refused.value.field == "key"
        assert (await app.ask(Of(""))).value is None


async def test_a_find_of_more_rows_than_are_ever_returned_is_refused_and_not_cut_in_silence() -> None:
    async with colours("async") as app:
        assert (await app.ask(Some(MAX_FIND))).value == []
        with pytest.raises(InvalidMessage, match=r"at most 10000 rows, not 10001\. Read them in pages") as refused:
            await app.ask(Some(MAX_FIND + 1))
        assert refused.value.field == "limit"
