"""A follower's pages are the same whether they are read by walking the log or by its index, and walking has to pay."""

from pathlib import Path
from random import Random

import pytest

from twofold.domain.event_query import AppendCondition, EventQuery, QueryItem
from twofold.testing.write_store_model import append, event
from twofold.write_store.sqlite import SqliteWriteStore
from twofold.write_store.sqlite.reader import LogReader


@pytest.mark.parametrize("seed", range(5))
async def test_pages_of_types_are_complete_through_dense_and_thin_stretches(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    store = SqliteWriteStore(tmp_path / "log.db")
    kinds: list[str] = []
    for _ in range(12):
        share = random.choice((0.0, 0.02, 0.5, 0.9, 1.0))
        kinds += [random.choice("ab") if random.random() < share else "c" for _ in range(100)]
    await store.append([append(event(kind)) for kind in kinds])
    wanted = [position for position, kind in enumerate(kinds, 1) if kind in "ab"]
    for limit in (1, 7, 40, 500):
        found: list[int] = []
        position = 0
        while position < len(kinds):
            page = await store.read(EventQuery((QueryItem(("a", "b")),)), position, limit)
            assert len(page.events) <= limit
            found += [each.position for each in page.events]
            position = page.upto
        assert found == wanted
    await store.close()


async def test_where_most_is_of_other_types_the_index_is_used_and_walking_tried_again_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[int] = []
    dense = LogReader._dense

    def counted(self: LogReader, conditions: list[AppendCondition], head: int, limit: int | None, size: int) -> object:
        before = dict(self._sparse)
        found = dense(self, conditions, head, limit, size)
        if found is not None or self._sparse.get(conditions[0].query, 0) > before.get(conditions[0].query, 0):
            walks.append(conditions[0].after)
        return found

    monkeypatch.setattr(LogReader, "_dense", counted)
    monkeypatch.setattr("twofold.write_store.sqlite.reader._READS_BY_INDEX", 3)
    store = SqliteWriteStore(tmp_path / "log.db")
    await store.append([append(event("a" if n % 10 == 0 else "c")) for n in range(400)])
    for after in range(0, 100, 10):
        page = await store.read(EventQuery((QueryItem(("a",)),)), after, 5)
        assert [each.position for each in page.events] == [after + 1 + 10 * n for n in range(5)]
    assert walks == [0, 40, 80], "one in four"
    walks.clear()
    for after in range(0, 100, 10):
        assert len((await store.read(EventQuery((QueryItem(("c",)),)), after, 5)).events) == 5
    assert len(walks) == 10, "where they are dense each page is walked to"
    await store.close()
