"""The kinds of faults: what each is about, and which fields it takes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import attrs

FaultKind = Literal[
    "answer",
    "latency",
    "reset",
    "truncate",
    "malformed",
    "drip",
    "revoke_tokens",
    "iam_down",
    "clock_skew",
    "stuck_drain",
    "young_404",
    "job_failure",
    "job_cancellation",
    "backend_offline",
    "backend_paused",
    "usage_limit",
]

Operation: TypeAlias = Literal[
    "create",
    "get",
    "update",
    "drain",
    "close",
    "workloads",
    "versions",
    "token",
    "create_job",
    "list_jobs",
    "has_pending_jobs",
    "get_job",
    "delete_job",
    "cancel_job",
    "job_results",
    "job_metrics",
    "job_logs",
    "job_tags",
    "backends",
    "backend_status",
    "backend_configuration",
    "backend_properties",
    "backend_defaults",
    "instance",
    "instance_configuration",
    "usage",
    "instances",
    "resource_instances",
    "resource_instance",
    "plan",
]
"""What a fault can be bound to."""

OPERATIONS: tuple[Operation, ...] = get_args(Operation)
"""The same as values."""

MOST_SECONDS = 3600.0
YOUNG_SECONDS = 2.0
"""How long a session is young to a `young_404` without `seconds`."""
DOWN_SECONDS = 600.0
"""How long a job waits for a backend that is offline or paused, without `seconds`."""
_ABOUT_BACKENDS = frozenset({"backends", "backend_status", "create_job"})


@attrs.frozen
class KindRules:
    """The fields that a kind takes, the one that it needs, and the operations that it is about.

    Fields that say when a fault applies go with every kind. No operations mean all.
    """

    fields: frozenset[str] = frozenset()
    needs: str | None = None
    operations: frozenset[str] = frozenset()


RULES: Mapping[FaultKind, KindRules] = MappingProxyType(
    {
        "answer": KindRules(
            frozenset({"status", "body", "headers", "retry_after", "after"}), needs="status"
        ),
        "latency": KindRules(frozenset({"seconds", "after"}), needs="seconds"),
        "reset": KindRules(frozenset({"after"})),
        "truncate": KindRules(frozenset({"keep_bytes"})),
        "malformed": KindRules(),
        "drip": KindRules(frozenset({"seconds"}), needs="seconds"),
        "revoke_tokens": KindRules(frozenset({"after"})),
        "iam_down": KindRules(operations=frozenset({"token"})),
        "clock_skew": KindRules(frozenset({"seconds"}), needs="seconds"),
        "stuck_drain": KindRules(operations=frozenset({"update", "drain"})),
        "young_404": KindRules(
            frozenset({"seconds"}), operations=frozenset({"get", "update", "drain", "close"})
        ),
        "job_failure": KindRules(operations=frozenset({"create_job"})),
        "job_cancellation": KindRules(operations=frozenset({"create_job"})),
        "backend_offline": KindRules(frozenset({"seconds"}), operations=_ABOUT_BACKENDS),
        "backend_paused": KindRules(frozenset({"seconds"}), operations=_ABOUT_BACKENDS),
        "usage_limit": KindRules(operations=frozenset({"usage", "create_job"})),
    }
)
