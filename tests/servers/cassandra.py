"""Throw-away Cassandra nodes: how one is started, killed and reached."""

import itertools
import os
import shutil
import socket
import struct

from tests.servers.jars import HOW_TO_GET_THEM, JVM, find_jars, find_java, jars_of
from tests.servers.server import LOOPBACK, Server, ServerError, free_port, hand_over, wait_until

HOW_TO_GET_ONE = HOW_TO_GET_THEM
DATACENTER = "datacenter1"

# Any key the server does not know is fatal. Long time-outs: on a loaded machine short ones are only noise.
_SETTINGS = """\
cluster_name: tests
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
num_tokens: 4
auto_bootstrap: false
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "{seeds}"
listen_address: {address}
storage_port: {storage}
rpc_address: {address}
native_transport_port: {port}
data_file_directories: ["{folder}/data"]
commitlog_directory: {folder}/commitlog
hints_directory: {folder}/hints
saved_caches_directory: {folder}/saved_caches
cdc_raw_directory: {folder}/cdc_raw
commitlog_sync: {sync}
commitlog_segment_size: 16MiB
commitlog_total_space: 256MiB
memtable_allocation_type: unslabbed_heap_buffers
memtable_heap_space: 96MiB
memtable_offheap_space: 96MiB
key_cache_size: 8MiB
counter_cache_size: 8MiB
concurrent_compactors: 1
auto_snapshot: false
authenticator: {authenticator}
authorizer: {authorizer}
client_encryption_options:
  enabled: {accounts}
  # Plain connections are taken, too.
  optional: {accounts}
  keystore: {folder}/keys
  keystore_password: {password}
read_request_timeout: 10s
range_request_timeout: 20s
write_request_timeout: 10s
cas_contention_timeout: 5s
truncate_request_timeout: 60s
"""
_LOGGING = """\
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %date{HH:mm:ss.SSS} %logger{20} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
"""
_PROPERTIES = {
    "cassandra-foreground": "yes",
    "cassandra.superuser_setup_delay_ms": "0",
    "cassandra.available_processors": "2",
}
_ALONE = {"cassandra.skip_wait_for_gossip_to_settle": "0", "cassandra.ring_delay_ms": "1"}
"""A node alone has nobody to wait for."""

# A frame of the native protocol that asks for the server's options: who answers is ready.
_OPTIONS = struct.pack("!BBHBI", 4, 0, 0, 5, 0)

_KEYS_PASSWORD = "not-a-secret"
_SUPERUSER = "Created default superuser role"

_numbers = itertools.count(1)


def missing() -> str | None:
    """Why no Cassandra can be started here; None where one can."""
    if find_java() is None:
        return f"no Java 17: {HOW_TO_GET_ONE}"
    return None if find_jars("cassandra") else f"no jars of Cassandra: {HOW_TO_GET_ONE}"


def fresh_keyspace() -> str:
    """The name of a keyspace that nobody has used."""
    return f"t{os.getpid()}_{next(_numbers)}"


class Cassandra(Server):
    """A Cassandra node: a cluster of its own, or, given another node, one more of that one's.

    Fast settings lose the schema when the server is killed; a `durable` one syncs each write. With `accounts` a client
    has to say who it is: there is a superuser cassandra, whose password is cassandra. It may speak TLS then, and has to
    trust `certificate`.
    """

    name = "cassandra"
    death = "KILL"  # to a JVM, SIGQUIT is a question

    def __init__(
        self, beside: "Cassandra | None" = None, *, durable: bool = False, accounts: bool = False, heap: str = "768m"
    ) -> None:
        super().__init__()
        java = find_java()
        if java is None:
            raise ServerError(missing() or "")
        self._java = java
        self._jars = jars_of("cassandra")
        self._storage = free_port()
        self._accounts = accounts
        self.certificate = self.folder / "certificate.pem"
        self._heap = heap
        self._properties = _PROPERTIES | ({} if durable else {"cassandra.unsafesystem": "true"})
        self._properties |= {"cassandra.ring_delay_ms": "10000"} if beside else _ALONE
        self._settings = _SETTINGS.format(
            address=LOOPBACK,
            seeds=f"{LOOPBACK}:{(beside or self)._storage}",
            storage=self._storage,
            accounts=str(accounts).lower(),
            password=_KEYS_PASSWORD,
            port=self.port,
            folder=self.folder,
            sync="batch" if durable else "periodic\ncommitlog_sync_period: 1000ms",
            authenticator="PasswordAuthenticator" if accounts else "AllowAllAuthenticator",
            authorizer="CassandraAuthorizer" if accounts else "AllowAllAuthorizer",
        )

    def url(self, keyspace: str, **options: str | int) -> str:
        """The URL of a read store in a keyspace."""
        query = "&".join(f"{name}={value}" for name, value in {"replication": 1, **options}.items())
        return f"cassandra://{LOOPBACK}:{self.port}/{keyspace}?{query}"

    def start(self) -> None:
        if self.running:
            raise ServerError("it runs already")
        if self._accounts and not self.certificate.exists():
            self._make_keys()
        self._write({"cassandra.yaml": self._settings, "logback.xml": _LOGGING})
        shutil.copy(JVM / "cassandra.options", self.folder / "options")
        properties = self._properties | {
            "cassandra.config": f"file://{self.folder}/cassandra.yaml",
            "cassandra.storagedir": str(self.folder),
            "logback.configurationFile": f"{self.folder}/logback.xml",
        }
        (agent,) = self._jars.glob("jamm-*.jar")
        process = self._spawn(
            self._java,
            f"@{self.folder}/options",
            f"-Xmx{self._heap}",
            f"-javaagent:{agent}",
            *(f"-D{name}={value}" for name, value in properties.items()),
            "-cp",
            f"{self._jars}/*",
            "org.apache.cassandra.service.CassandraDaemon",
        )
        try:
            wait_until(lambda: process.poll() is not None or self._ready(), "Cassandra to answer")
        except ServerError as error:
            raise ServerError(f"{error}\n{self.last_words()}") from None
        if process.poll() is not None:
            self.process = None
            raise ServerError(f"Cassandra did not start\n{self.last_words()}")

    def close(self) -> None:
        """End it and remove all of it. What it would write down on the way out, nobody reads."""
        try:
            self.kill()
        finally:
            super().close()

    def _make_keys(self) -> None:
        """A key of the server's own, and the certificate of it."""
        tool = (self._java.resolve().parent / "keytool", "-keystore", self.folder / "keys", "-alias", "server")
        password = ("-storepass", _KEYS_PASSWORD)
        subject = ("-dname", "CN=tests", "-ext", f"san=ip:{LOOPBACK}", "-validity", "2", "-keyalg", "EC")
        self._run(*tool, *password, "-genkeypair", "-storetype", "PKCS12", *subject)
        self._run(*tool, *password, "-exportcert", "-rfc", "-file", self.certificate)

    def _ready(self) -> bool:
        # The superuser comes a moment after the port.
        return self._answers() and (not self._accounts or _SUPERUSER in self.log.read_text(errors="replace"))

    def _answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), 5) as asked:
                asked.sendall(_OPTIONS)
                return bool(asked.recv(1))
        except OSError:
            return False

    def _write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text)
            hand_over(self.folder / name)
