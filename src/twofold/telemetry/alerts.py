"""Alert rules for Prometheus, made from what an app declares: the same limits by which its health is judged."""

from collections.abc import Mapping, Sequence

import msgspec

from twofold.domain.module import Wiring
from twofold.health import LAG_SECONDS


class AlertRule(msgspec.Struct, frozen=True):
    """One rule, with the names that a rule file of Prometheus has. `wait` is its `for`."""

    alert: str
    expr: str
    wait: str = msgspec.field(name="for")
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class _Group(msgspec.Struct, frozen=True):
    name: str
    rules: Sequence[AlertRule]


class _RuleFile(msgspec.Struct, frozen=True):
    groups: Sequence[_Group]


def alert_rules(wiring: Wiring, stall_seconds: float, job: str) -> bytes:
    """A rule file for the processes of one app, as JSON, which is YAML too. `job` is their job in Prometheus."""
    rules = [*_of_processes(job), *_of_followers(wiring, stall_seconds, job)]
    return msgspec.json.format(msgspec.json.encode(_RuleFile([_Group(f"twofold-{job}", rules)])), indent=2) + b"\n"


def _of_processes(job: str) -> list[AlertRule]:
    only = f'{{job="{job}"}}'
    failed = f'sum by (job) (rate(twofold_commands_total{{job="{job}",outcome="failed"}}[5m]))'
    away = f'sum by (job) (rate(twofold_commands_total{{job="{job}",outcome="unavailable"}}[5m]))'
    all_commands = f"sum by (job) (rate(twofold_commands_total{only}[5m]))"
    slow = f"histogram_quantile(0.99, sum by (job, le) (rate(twofold_append_seconds_bucket{only}[5m])))"
    return [
        _rule("TwofoldProcessDown", f"up{only} == 0", "1m", "critical", "A process cannot be scraped."),
        _rule(
            "TwofoldNotReady",
            f"twofold_health_level{only} == 0",
            "1m",
            "critical",
            "The {{ $labels.side }} side of a process takes no traffic. `/health/ready` says why.",
        ),
        _rule(
            "TwofoldDegraded",
            f"twofold_health_level{only} == 1",
            "5m",
            "warning",
            "The {{ $labels.side }} side of a process is degraded. `/status` says why.",
        ),
        _rule(
            "TwofoldLogDamaged",
            f"twofold_damages{only} > 0",
            "0m",
            "critical",
            "The log is damaged. Run `twofold verify`, and restore it from a backup.",
        ),
        _rule("TwofoldCommandsFail", f"{failed} > 0", "0m", "warning", "Commands fail by a bug. See the log."),
        _rule(
            "TwofoldCommandsUnavailable",
            f"{away} > 0.01 * {all_commands}",
            "5m",
            "critical",
            "More than 1 % of the commands are refused for now. The write store is away, or there is too much to do.",
        ),
        _rule("TwofoldCommitsSlow", f"{slow} > 1", "10m", "warning", "One commit of a hundred takes more than 1 s."),
    ]


def _of_followers(wiring: Wiring, stall_seconds: float, job: str) -> list[AlertRule]:
    rules = [
        _rule(
            "TwofoldFollowerStalled",
            f'twofold_follower_stalled_seconds{{job="{job}"}} > {stall_seconds:g}',
            "1m",
            "warning",
            "{{ $labels.name }} is behind and has not moved for {{ $value }} s.",
        ),
        _rule(
            "TwofoldKeysParked",
            f'twofold_follower_parked_keys{{job="{job}"}} > 0',
            "0m",
            "warning",
            "{{ $labels.name }} has {{ $value }} parked keys. See `twofold parked`.",
        ),
        _rule(
            "TwofoldFollowerPaused",
            f'twofold_follower_paused{{job="{job}"}} == 1',
            "15m",
            "warning",
            "{{ $labels.name }} is paused. `twofold resume` lets it go on.",
        ),
        _rule(
            "TwofoldPolicyOutage",
            f'twofold_follower_outage{{job="{job}"}} == 1',
            "5m",
            "warning",
            "What the policy {{ $labels.name }} calls is away.",
        ),
    ]
    for name in sorted(wiring.followers):
        projection = wiring.projections.get(name)
        objective = None if projection is None else projection.freshness
        limit = LAG_SECONDS if objective is None else objective
        kind = wiring.followers[name]
        rules.append(
            _rule(
                "TwofoldFollowerBehind" if objective is None else "TwofoldFreshnessMissed",
                f'twofold_follower_lag_seconds{{job="{job}",name="{_quoted(name)}",kind="{kind}"}} > {limit:g}',
                "1m",
                "warning",
                f"The {kind} {name} is more than {limit:g} s behind.",
            )
        )
    return rules


def _rule(alert: str, expr: str, wait: str, severity: str, summary: str) -> AlertRule:
    return AlertRule(alert, expr, wait, {"severity": severity}, {"summary": summary})


def _quoted(text: str) -> str:
    """A text within the quotation marks of PromQL."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
