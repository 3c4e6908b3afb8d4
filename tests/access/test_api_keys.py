"""API keys: random, stored as hashes, expiring, and refused within a second after they are revoked."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from twofold.access.api_keys import ApiKeys, create_key, read_keys, revoke_key
from twofold.domain.actor import Actor
from twofold.errors import NotAuthenticated, Unavailable, WiringError
from twofold.testing import FrozenWorld
from twofold.world import RealWorld, World


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def made(path: Path, world: World, **more: float) -> str:
    return create_key(path, world, name="ann", roles=["clerk", "teller"], **{"days": 1.0} | more)


async def test_a_key_is_its_actor_with_the_roles_of_the_key(tmp_path: Path) -> None:
    path, world = tmp_path / "keys.json", FrozenWorld()
    key = create_key(path, world, name="ann", roles=["clerk"], days=1, tenant="acme")
    assert await ApiKeys(path).authenticate(bearer(key), world) == Actor("ann", frozenset({"clerk"}), "acme")


async def test_other_credentials_are_left_to_others(tmp_path: Path) -> None:
    keys, world = ApiKeys(tmp_path / "keys.json"), FrozenWorld()
    for headers in ({}, bearer("a.b.c"), {"authorization": "Basic dGY6dGY="}, {"authorization": "tf_1_2"}):
        assert await keys.authenticate(headers, world) is None


async def test_a_wrong_key_is_refused(tmp_path: Path) -> None:
    path, world = tmp_path / "keys.json", FrozenWorld()
    key = made(path, world)
    number = key.split("_")[1]
    keys = ApiKeys(path)
    wrong = [
        "tf_",
        "tf__",
        f"tf_{number}_",
        f"tf_{number}",
        f"{key}x",
        key[:-1],
        f"tf_000000000000_{key.split('_', 2)[2]}",
    ]
    for each in wrong:
        with pytest.raises(NotAuthenticated, match="unknown, revoked or expired"):
            await keys.authenticate(bearer(each), world)


async def test_a_key_expires(tmp_path: Path) -> None:
    path, world = tmp_path / "keys.json", FrozenWorld()
    key, keys = made(path, world), ApiKeys(path)
    assert await keys.authenticate(bearer(key), world) is not None
    await world.advance(86_400.0)
    with pytest.raises(NotAuthenticated):
        await keys.authenticate(bearer(key), world)


async def test_a_revoked_key_is_refused_within_a_second(tmp_path: Path) -> None:
    path, world = tmp_path / "keys.json", FrozenWorld()
    key, other, keys = made(path, world), made(path, world), ApiKeys(path)
    assert await keys.authenticate(bearer(key), world) is not None
    assert revoke_key(path, key.split("_")[1]).name == "ann"
    await world.advance(1.0)
    with pytest.raises(NotAuthenticated):
        await keys.authenticate(bearer(key), world)
    assert await keys.authenticate(bearer(other), world) is not None
    with pytest.raises(KeyError):
        revoke_key(path, "nobody")


def test_the_file_has_no_secret_and_is_for_its_owner_only(tmp_path: Path) -> None:
    path, world = tmp_path / "keys.json", FrozenWorld()
    key = made(path, world)
    assert key.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made(path, world)
    assert len({each.salt for each in read_keys(path)}) == len({each.hash for each in read_keys(path)}) == 2


def test_a_file_that_was_made_readable_for_others_stays_so(tmp_path: Path) -> None:
    path, world = tmp_path / "keys" / "keys.json", FrozenWorld()
    key = made(path, world)
    path.chmod(0o644)
    revoke_key(path, key.split("_")[1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


async def test_a_damaged_file_lets_nobody_in_and_is_used_again_once_it_is_restored(tmp_path: Path) -> None:
    path, world = tmp_path / "keys.json", FrozenWorld()
    key, keys = made(path, world), ApiKeys(path)
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be read"):
            await keys.authenticate(bearer(key), world)
        await world.advance(2.0)
    with pytest.raises(WiringError, match="cannot be read"):
        made(path, world)
    path.write_bytes(content)
    await world.advance(1.0)
    assert await keys.authenticate(bearer(key), world) is not None


async def test_a_file_that_cannot_be_looked_at_lets_nobody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, world = tmp_path / "keys.json", FrozenWorld()
    key, keys = made(path, world), ApiKeys(path)
    assert await keys.authenticate(bearer(key), world) is not None

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("the folder was closed")

    with monkeypatch.context() as closed:
        closed.setattr(Path, "stat", refuse)
        for _ in range(2):
            await world.advance(2.0)
            with pytest.raises(Unavailable):
                await keys.authenticate(bearer(key), world)
    await world.advance(2.0)
    # The file has not changed, and is read all the same.
    assert await keys.authenticate(bearer(key), world) is not None


async def test_a_key_is_revoked_also_through_a_link(tmp_path: Path) -> None:
    path, link, world = tmp_path / "keys.json", tmp_path / "link.json", FrozenWorld()
    key, keys = made(path, world), ApiKeys(path)
    link.symlink_to(path)
    revoke_key(link, key.split("_")[1])
    assert link.is_symlink()
    with pytest.raises(NotAuthenticated):
        await keys.authenticate(bearer(key), world)


def test_a_key_for_a_name_of_the_runtime_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="begin with '~'"):
        create_key(tmp_path / "keys.json", FrozenWorld(), name="~policy", roles=[], days=1)


def test_keys_that_are_created_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: made(path, RealWorld()), range(40)))
    assert len({key.id for key in read_keys(path)}) == len(set(keys)) == 40
    assert msgspec.json.decode(path.read_bytes())["keys"]
    assert sorted(os.listdir(tmp_path)) == [".keys.json.lock", "keys.json"]


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan")])
def test_a_key_that_would_never_be_valid_is_not_made(tmp_path: Path, days: float) -> None:
    with pytest.raises(ValueError, match="more than 0 days"):
        made(tmp_path / "keys.json", FrozenWorld(), days=days)
