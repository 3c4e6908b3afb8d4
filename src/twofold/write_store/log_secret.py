"""The secret of a log: random bytes under which ids are derived that callers must not be able to predict."""

from twofold.domain.envelope import Metadata
from twofold.world import World, microseconds, secret_bytes
from twofold.write_store.port import Append, RowWrite, WriteStore

SPACE = "secret"
_KEY = "ids"


async def log_secret(write_store: WriteStore, world: World) -> bytes:
    """The secret of this log, 32 bytes. The first process that asks for it makes it.

    It is a row of the log, so it is moved with it. Nothing shows it. Unavailable where the store cannot be reached.
    """
    row = (await write_store.rows(SPACE, [_KEY])).get(_KEY)
    if row is None:
        made = secret_bytes(world, 32)
        metadata = Metadata(microseconds(world.now()), SPACE, SPACE)
        await write_store.append([Append(metadata, rows=(RowWrite(SPACE, _KEY, made, 0),))])
        # Another process may have been first: then this append was refused, and the row is that of the other.
        row = (await write_store.rows(SPACE, [_KEY]))[_KEY]
    return row.value
