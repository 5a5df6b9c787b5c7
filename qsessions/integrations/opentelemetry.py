"""Spans and metrics of OpenTelemetry, made from the client's events.

It needs the extra `otel`. What it makes goes to the SDK that the program has set up; without one it
goes nowhere.
"""

# What it imports comes with an extra.
# pyright: reportMissingImports=false

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TypeAlias
from urllib.parse import quote

from attrs import define, field
from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from yarl import URL

from qsessions._version import __version__
from qsessions.events import (
    ClientStopped,
    CreateFailed,
    EndingFailed,
    Event,
    RequestFailed,
    RequestSent,
    ResponseReceived,
    RetryPlanned,
    SessionClosed,
    SessionCreated,
    SessionDraining,
    SessionEnded,
)

_Attributes: TypeAlias = dict[str, str | int | float]

_SCOPE = "qsessions"
# The conventions' own, in seconds.
_DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_USAGES = (1, 10, 60, 300, 600, 1800, 3600, 7200, 14400, 28800)


# How many sessions are remembered: those that nobody reads after their end would stay for ever.
_REMEMBERED = 10_000


@define
class _SessionSpan:
    """A session's span, the span of the caller that it is within, and its metrics' attributes."""

    span: Span
    caller: Span
    attributes: _Attributes = field(factory=dict)
    is_open: bool = True


@define
class _RequestSpan:
    """A request's span, its metrics' attributes, and what takes the span out of the context."""

    span: Span
    attributes: _Attributes
    token: Token[Context]


class OpenTelemetry:
    """An observer that makes spans and metrics. Pass one to each client.

    Each request is a span, by the conventions for HTTP clients. Each session that the client
    creates is a span, from its create until it has ended or drains or the client is closed, and the
    parent of its requests. A request within a further span of the caller's has that as its parent,
    and a link to the session's.

    Args:
        tracer_provider: Where spans go; by default the program's global one.
        meter_provider: Where metrics go; by default the program's global one.
        propagate: Whether requests to the service, but those of `versions`, have the headers
            `traceparent` and `tracestate`, so that a proxy in between can go on with the trace.
            Those to IAM have neither.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagate: bool = False,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        self._propagates = propagate
        # The sessions that the client created, by id, oldest first.
        self._sessions: dict[str, _SessionSpan] = {}
        # The create and the request that the present task is at.
        self._create: ContextVar[_SessionSpan | None] = ContextVar("create", default=None)
        self._request: ContextVar[_RequestSpan | None] = ContextVar("request", default=None)
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
        self._durations = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of each request.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._usages = meter.create_histogram(
            "qsessions.session.usage",
            "s",
            "Usage of each session that ended, once it was read after its end.",
            explicit_bucket_boundaries_advisory=_USAGES,
        )
        self._open = meter.create_up_down_counter(
            "qsessions.session.open", "{session}", "Sessions that were created and not yet ended."
        )
        self._retries = meter.create_counter(
            "qsessions.request.retries", "{retry}", "Requests that were sent again."
        )
        self._unknown = meter.create_counter(
            "qsessions.create.unknown", "{create}", "Creates after which a session may exist."
        )
        self._endings_failed = meter.create_counter(
            "qsessions.session.endings_failed", "{session}", "Sessions that could not be ended."
        )

    def __call__(self, event: Event, /) -> None:
        """Make spans and metrics of an event."""
        match event:
            case RequestSent():
                self._begin_request(event)
            case ResponseReceived() | RequestFailed():
                self._end_request(event)
            case RetryPlanned():
                self._retries.add(
                    1, {"qsessions.operation": event.operation, "qsessions.reason": event.reason}
                )
            case SessionCreated() | CreateFailed():
                self._end_create(event)
            case SessionDraining() | SessionClosed() | SessionEnded():
                self._end_session(event)
            case EndingFailed(again=False):
                self._endings_failed.add(1, {"qsessions.operation": event.operation})
                if (session := self._sessions.get(event.session_id)) is not None:
                    session.span.set_status(StatusCode.ERROR, event.detail)
            case ClientStopped():
                for session in self._sessions.values():
                    self._finish(session)
                self._sessions.clear()

    def trace_headers(self, sent: RequestSent) -> dict[str, str]:
        """Return the headers that name the span of a request to its receiver."""
        headers: dict[str, str] = {}
        if self._propagates:
            TraceContextTextMapPropagator().inject(headers)
        return headers

    def _begin_request(self, event: RequestSent) -> None:
        parent, links = self._parent(event)
        url, template = URL(event.origin), _template(event)
        shared: _Attributes = {
            "http.request.method": event.method,
            "server.address": url.host or "",
            "server.port": url.port or 0,
            "url.template": template,
        }
        own: _Attributes = {
            "url.full": event.origin + event.path,
            "qsessions.operation": event.operation,
        }
        if event.session_id is not None:
            own["qsessions.session.id"] = event.session_id
        if event.attempt > 1:
            own["http.request.resend_count"] = event.attempt - 1
        span = self._tracer.start_span(
            f"{event.method} {template}", parent, SpanKind.CLIENT, shared | own, links
        )
        # What is logged meanwhile belongs to it, and the headers name it.
        token = context.attach(trace.set_span_in_context(span))
        self._request.set(_RequestSpan(span, shared, token))

    def _parent(self, event: RequestSent) -> tuple[Context, list[Link]]:
        """Return the context that a request's span is in, and its links."""
        caller = trace.get_current_span()
        if event.operation == "create" and event.attempt == 1:
            self._create.set(_SessionSpan(self._tracer.start_span("session"), caller))
        session = self._sessions.get(event.session_id or "") or self._create.get()
        if session is None:
            return context.get_current(), []
        if caller is session.caller or not caller.get_span_context().is_valid:
            return trace.set_span_in_context(session.span), []
        return context.get_current(), [Link(session.span.get_span_context())]

    def _end_request(self, event: ResponseReceived | RequestFailed) -> None:
        request = self._request.get()
        if request is None:
            return
        self._request.set(None)
        context.detach(request.token)
        outcome: _Attributes = {}
        if isinstance(event, ResponseReceived):
            outcome["http.response.status_code"] = event.status
            if event.status >= 400:
                outcome["error.type"] = str(event.status)
                request.span.set_status(StatusCode.ERROR)
        else:
            outcome["error.type"] = event.error
            request.span.set_status(StatusCode.ERROR, event.reason)
        request.span.set_attributes(outcome)
        request.span.end()
        self._durations.record(event.seconds, request.attributes | outcome)

    def _end_create(self, event: SessionCreated | CreateFailed) -> None:
        session = self._create.get()
        if session is None:
            return
        self._create.set(None)
        if event.session_id is not None:
            session.span.set_attribute("qsessions.session.id", event.session_id)
        if isinstance(event, CreateFailed):
            if event.outcome_unknown:
                self._unknown.add(1)
            session.span.set_status(StatusCode.ERROR, event.reason)
            session.span.end()
            return
        session.attributes["qsessions.session.mode"] = str(event.mode)
        if event.backend is not None:
            session.attributes["qsessions.session.backend"] = event.backend
        session.span.set_attributes(session.attributes)
        if event.max_ttl is not None:
            session.span.set_attribute("qsessions.session.max_ttl", event.max_ttl)
        for name, value in event.labels.items():
            session.span.set_attribute(f"qsessions.label.{name}", value)
        self._open.add(1, session.attributes)
        self._sessions[event.session_id] = session
        if len(self._sessions) > _REMEMBERED:
            self._finish(self._sessions.pop(next(iter(self._sessions))))

    def _end_session(self, event: SessionDraining | SessionClosed | SessionEnded) -> None:
        session = self._sessions.get(event.session_id)
        if session is None:
            return
        if isinstance(event, SessionEnded) and event.usage_seconds is not None:
            # It may be read again.
            del self._sessions[event.session_id]
            self._usages.record(event.usage_seconds, session.attributes)
        self._finish(session)

    def _finish(self, session: _SessionSpan) -> None:
        if session.is_open:
            session.is_open = False
            session.span.end()
            self._open.add(-1, session.attributes)


def _template(event: RequestSent) -> str:
    """Return a request's path without the session's id, so that requests can be counted by it."""
    session_id = quote(event.session_id or "", safe="")
    return "/".join(
        "{id}" if part and part == session_id else part for part in event.path.split("/")
    )
