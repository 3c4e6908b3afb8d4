"""`python -m benchmarks [--quick] [NAME …]`: the figures of docs/performance.md, measured side by side."""

from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from benchmarks import postgres, queries, read_side
from benchmarks.commands import commands, saturated, visible
from benchmarks.harness import Result, show
from benchmarks.hot import hot, postgres_hot
from benchmarks.inline import inline
from benchmarks.log import bulk, growth, loads
from benchmarks.long_boundary import long_boundary
from benchmarks.streams import event_stream, live
from benchmarks.wire import parsing, wire

BENCHMARKS: dict[str, Callable[[int, float], list[Result]]] = {
    "commands": commands,
    "saturated": saturated,
    "visible": visible,
    "bulk": bulk,
    "loads": loads,
    "growth": growth,
    "long-boundary": long_boundary,
    "hot": hot,
    "inline": inline,
    "wire": wire,
    "parsing": parsing,
    "event-stream": event_stream,
    "live-queries": live,
    "postgres-commands": postgres.commands,
    "postgres-bulk": postgres.bulk,
    "postgres-loads": postgres.loads,
    "postgres-growth": postgres.growth,
    "postgres-visible": postgres.visible,
    "postgres-hot": postgres_hot,
    "postgres-wire": postgres.wire,
    "postgres-memory": postgres.memory,
    "views-catch-up": read_side.catch_up,
    "views-catch-up-large": read_side.catch_up_large,
    "views-peer": read_side.beside_peer,
    "views-rebuild": read_side.rebuild,
    "views-lag": read_side.lag,
    "views-memory": read_side.memory,
    "queries-by-key": queries.by_key,
    "queries-parked": queries.parked,
    "queries-during-rebuild": queries.during_rebuild,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--quick", is_flag=True, help="One short round: to see that it runs, not to quote.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the results to a file as well.")
def main(names: tuple[str, ...], quick: bool, file: Path | None) -> None:
    """Run all benchmarks, or those named."""
    rounds, seconds = (1, 0.2) if quick else (3, 1.5)
    results: list[Result] = []
    for name in names or BENCHMARKS:
        click.echo(f"{name} …", err=True)
        found = BENCHMARKS[name](rounds, seconds)
        results += found
        # At once: what comes later may take long, or fail.
        show(found)
        if file is not None:
            file.write_bytes(msgspec.json.format(msgspec.json.encode(results)))


if __name__ == "__main__":
    main()
