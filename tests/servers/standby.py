"""A standby: a second PostgreSQL that follows a throw-away one by streaming, and can be promoted."""

from contextlib import ExitStack

from tests.servers.postgres import Postgres
from tests.servers.server import LOOPBACK, ServerError, hand_over, wait_until

_OF_THE_PRIMARY_ALONE = ("port", "unix_socket_directories", "synchronous_standby_names")


def standby_of(primary: Postgres, synchronous: bool = False) -> "Standby":
    """A standby of this running server, to be entered as a context.

    With `synchronous` a commit on the primary returns only after the standby has it written, though perhaps not yet
    visible: for that, `set synchronous_commit = remote_apply`. Without, the standby may be behind.
    """
    return Standby(primary, synchronous)


class Standby(Postgres):
    """Read-only until it is promoted. Killed, stopped and started like any server; it follows again by itself.

    Where its primary still runs at the end, that forgets it: nothing waits for it, no slot keeps WAL for it.
    """

    name = "standby"

    def __init__(self, primary: Postgres, synchronous: bool) -> None:
        if not primary.running:
            raise ServerError("a standby begins with a copy of its primary: start that first")
        settings = {name: value for name, value in primary.settings.items() if name not in _OF_THE_PRIMARY_ALONE}
        super().__init__(primary.bindir, primary.durable, **settings)
        self.primary = primary
        self.synchronous = synchronous
        self.promoted = False
        self._commits_before = primary.settings.get("synchronous_commit", "on")
        self._node = f"standby_{self.port}"
        self._source = f"host={LOOPBACK} port={primary.port} user=postgres application_name={self._node}"
        self.settings |= {"primary_conninfo": self._source, "primary_slot_name": self._node}

    def start(self) -> None:
        """Returns when it follows, if it has a primary that runs, and if that is reported to wait for it, does so."""
        super().start()
        if self.promoted or not self.primary.running or not self.settings["primary_conninfo"]:
            return
        self._wait_until_it_receives()
        if self.synchronous:
            self.primary.configure(synchronous_standby_names=self._node, synchronous_commit="on")
            state = f"select sync_state from pg_stat_replication where application_name = '{self._node}'"
            wait_until(lambda: self.primary.sql(state) == "sync", "the primary to wait for its standby")

    def promote(self) -> None:
        """Make it a primary of its own; it takes writes when this returns. What it had received is what there is."""
        if self.sql("select pg_promote(wait => true, wait_seconds => 60)") != "t":
            raise ServerError(f"the standby was not promoted\n{self.last_words()}")
        self.promoted = True

    def catch_up(self) -> None:
        """Return when all that is committed on the primary can be read here."""
        # A commit that waits for the disk takes along those that did not.
        self.primary.sql("set synchronous_commit = local; select pg_logical_emit_message(true, '', '')")
        end = self.primary.sql("select pg_current_wal_flush_lsn()")
        reached = f"select pg_last_wal_replay_lsn() >= '{end}'"
        wait_until(lambda: self.sql(reached) == "t", "the standby to catch up")

    def pause_replay(self) -> None:
        """Go on receiving, and acknowledging, but let readers see no more. A promotion would replay what is there."""
        self.sql("select pg_wal_replay_pause()")
        state = "select pg_get_wal_replay_pause_state()"
        wait_until(lambda: self.sql(state) == "paused", "the replay to pause")

    def resume_replay(self) -> None:
        self.sql("select pg_wal_replay_resume()")

    def pause_receiving(self) -> None:
        """As if the network between the two were gone. Commits that wait for this standby go on waiting."""
        self.configure(primary_conninfo="")
        wait_until(lambda: not self._receives(), "the standby to receive nothing")

    def resume_receiving(self) -> None:
        self.configure(primary_conninfo=self._source)
        self._wait_until_it_receives()

    def close(self) -> None:
        # The last one pushed comes first; each is done, whatever becomes of the others.
        with ExitStack() as stack:
            stack.callback(self._release_slot)
            stack.callback(super().close)
            stack.callback(self._release_commits)

    def _fill(self) -> None:
        options = ("--wal-method=stream", "--checkpoint=fast", "--no-sync", "--create-slot", f"--slot={self._node}")
        self._run(self.bindir / "pg_basebackup", f"--pgdata={self.data}", f"--dbname={self._source}", *options)
        signal = self.data / "standby.signal"
        signal.touch()
        hand_over(signal)

    def _receives(self) -> bool:
        return self.sql("select status from pg_stat_wal_receiver") == "streaming"

    def _wait_until_it_receives(self) -> None:
        wait_until(self._receives, "the standby to receive")

    def _release_commits(self) -> None:
        if self.primary.running and self.primary.settings.get("synchronous_standby_names") == self._node:
            self.primary.configure(synchronous_standby_names="", synchronous_commit=self._commits_before)

    def _release_slot(self) -> None:
        if not self.primary.running:
            return
        slot = f"from pg_replication_slots where slot_name = '{self._node}'"
        wait_until(lambda: self.primary.sql(f"select active {slot}") != "t", "the slot to be free")
        self.primary.sql(f"select pg_drop_replication_slot(slot_name) {slot}")
