"""What jobs and instances use, as the service tells it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from attrs import field, frozen

from qsessions.values import Model


@frozen(kw_only=True, eq=False, repr=False)
class Job(Model):
    """A job as the instance's list of jobs shows it.

    Attributes:
        id: The job's id.
        created: When it was created.
        ended: When it ended, or None.
        status: Queued, Running, Completed, Cancelled, Failed, or one that the service added later.
        reason: Why, in the service's words, as of a failure.
        backend: Where it runs, or None.
        session_id: Its session, or None.
        program_id: What runs it, such as "sampler".
        user_id: Whose it is.
        tags: The tags it was given.
        private: Whether its parameters and results are kept from others.
        cost: What the service calls its cost.
        estimated_running_time_seconds: How long it is expected to run, in seconds.
        usage_seconds: Its usage so far, in seconds.
        extra: Fields that this version of qsessions doesn't know, and those that `reason`,
            `program_id` and `usage_seconds` are taken from, as decoded JSON. Not part of the hash.
    """

    id: str
    created: datetime | None = None
    ended: datetime | None = None
    status: str | None = None
    reason: str | None = None
    backend: str | None = None
    session_id: str | None = None
    program_id: str | None = None
    user_id: str | None = None
    tags: tuple[str, ...] = ()
    private: bool | None = None
    cost: float | None = None
    estimated_running_time_seconds: float | None = None
    usage_seconds: float | None = None
    extra: Mapping[str, object] = field(factory=dict, hash=False)


@frozen(kw_only=True, eq=False, repr=False)
class UsagePeriod(Model):
    """The time that an instance's usage is counted over.

    Attributes:
        start_time: When it began.
        end_time: When it ends.
        extra: Fields that this version of qsessions doesn't know, as decoded JSON. Not part of the
            hash.
    """

    start_time: datetime | None = None
    end_time: datetime | None = None
    extra: Mapping[str, object] = field(factory=dict, hash=False)


@frozen(kw_only=True, eq=False, repr=False)
class InstanceUsage(Model):
    """What an instance has used, and what it may use.

    Attributes:
        usage_consumed_seconds: What it has used in the period, in seconds.
        usage_limit_seconds: The limit that its owner set, in seconds, or None.
        usage_allocation_seconds: What its plan allows in the period, in seconds, or None.
        usage_limit_reached: Whether nothing is left, so that jobs are refused; None where there is
            no limit.
        usage_period: The period.
        instance_id: The instance's CRN.
        plan_id: The id of its plan.
        extra: Fields that this version of qsessions doesn't know, as decoded JSON. Not part of the
            hash.
    """

    usage_consumed_seconds: float
    usage_limit_seconds: float | None = None
    usage_allocation_seconds: float | None = None
    usage_limit_reached: bool | None = None
    usage_period: UsagePeriod | None = None
    instance_id: str | None = None
    plan_id: str | None = None
    extra: Mapping[str, object] = field(factory=dict, hash=False)
