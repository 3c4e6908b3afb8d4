"""The Cassandra driver, as one untyped object: it has no type hints.

All its modules are imported here, so that a driver that cannot run on this Python is a WiringError with the fix.
"""

from typing import Any

from twofold.errors import WiringError

try:
    import cassandra.auth  # type: ignore[import-untyped]
    import cassandra.cluster  # type: ignore[import-untyped]
    import cassandra.connection  # type: ignore[import-untyped]
    import cassandra.io.libevreactor  # type: ignore[import-untyped]
    import cassandra.metadata  # type: ignore[import-untyped]
    import cassandra.policies  # type: ignore[import-untyped]
    import cassandra.pool  # type: ignore[import-untyped]
    import cassandra.protocol  # type: ignore[import-untyped]
    import cassandra.query  # type: ignore[import-untyped]
except ImportError:
    raise
except Exception as error:
    # The driver raises DependencyException, which cannot be imported before the driver.
    raise WiringError(
        "The Cassandra driver here was built without libev, without which it does not run on this Python. Install a "
        "wheel of cassandra-driver, or libev and then the driver."
    ) from error

driver: Any = cassandra
