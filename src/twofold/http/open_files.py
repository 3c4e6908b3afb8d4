"""Open files: how many this process may have, and how many of them connections may take."""

import logging
import os
import resource
from contextlib import suppress

log = logging.getLogger("twofold.http")

RESERVE = 256
"""Files kept free of connections: for the stores, and for connections that are accepted before one is closed."""


def connections_that_fit(wanted: int) -> int:
    """How many connections may be open at once, at most `wanted`, so that the reserve is left.

    The soft limit of open files is raised for them as far as the hard limit allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVE + _open_now()
    if soft != resource.RLIM_INFINITY and soft < needed:
        more = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    fitting = max(soft - _open_now() - RESERVE, soft // 4)
    log.warning(
        "This process may have %d open files, so it serves at most %d connections at once instead of %d. Raise the "
        "limit: `ulimit -n %d`.",
        soft,
        fitting,
        wanted,
        needed,
    )
    return fitting


def _open_now() -> int:
    # /proc on Linux, /dev/fd elsewhere.
    with suppress(OSError):
        return len(os.listdir("/dev/fd"))
    return 64
