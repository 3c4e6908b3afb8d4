"""`kill -9` at any moment of the replay loses no acknowledged order, doubles none, and leaves no read model wrong."""

import secrets
from pathlib import Path

import pytest

from tests.torture.kill_helpers import KilledShop, check_log
from twofold.domain.envelope import Envelope, Metadata
from twofold.domain.events import RecordedEvent

KILLS = 50


async def kill_again_and_again(folder: Path, kills: int, check_every: int) -> None:
    seed = secrets.randbelow(10**9)
    shop = KilledShop(folder, seed)
    try:
        for kill in range(1, kills + 1):
            await shop.live()
            if kill % check_every == 0:
                assert await shop.check() > 0
        assert shop.kills_under_load > kills // 2, "the server mostly died idle: there was too little to do"
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    finally:
        shop.history.close()


@pytest.mark.timeout(240)
async def test_fifty_kills_in_a_row_lose_no_order_and_double_none(tmp_path: Path) -> None:
    await kill_again_and_again(tmp_path, KILLS, check_every=10)


@pytest.mark.torture
@pytest.mark.timeout(7_200)
async def test_a_thousand_kills_lose_no_order_and_double_none(tmp_path: Path) -> None:
    for run in range(10):
        folder = tmp_path / str(run)
        folder.mkdir()
        await kill_again_and_again(folder, 100, check_every=20)


def event(position: int, command: str = "", order: str = "") -> RecordedEvent:
    command = command or f"c{position}"
    tags = (f"order:{order or position}",)
    return RecordedEvent(
        position, "order-placed", 1, b"{}", Envelope(f"{command}.0", tags, Metadata(0, command, command))
    )


@pytest.mark.parametrize(
    ("log", "complaint"),
    [
        ([event(1), event(3)], "gap"),
        ([event(1), event(2, command="c1")], "events are doubled"),
        ([event(1)], "was acknowledged at 2"),
        ([event(1), event(2, command="other")], "was acknowledged at 2"),
        ([event(1), event(2), event(3, order="1")], "placed or paid twice"),
    ],
)
def test_the_check_finds_what_must_not_be(log: list[RecordedEvent], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_log(log, {"c1": (1, ["c1.0"]), "c2": (2, ["c2.0"])})
