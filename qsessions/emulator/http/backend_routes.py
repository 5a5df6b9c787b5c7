"""What there is to know of backends, and of the instance that is called."""

from aiohttp import web

from qsessions.emulator.http.calls import InstanceCall, Route
from qsessions.emulator.service.backends import (
    CALIBRATION_ID,
    configuration_body,
    list_body,
    properties_body,
    status_body,
)
from qsessions.emulator.service.errors import invalid
from qsessions.emulator.service.instances import (
    configuration_of_instance_body,
    instance_body,
    queue_length,
    usage_body,
)


def list_backends(call: InstanceCall) -> web.Response:
    """GET /v1/backends."""
    queues = {name: _queue_length(call, name) for name in call.instance.backends}
    status = _down(call) or "online"
    return web.json_response(list_body(call.instance.backends, queues, status))


def get_status(call: InstanceCall) -> web.Response:
    """GET /v1/backends/{name}/status."""
    return web.json_response(status_body(_queue_length(call, call.id), _down(call) or "active"))


def get_configuration(call: InstanceCall) -> web.Response:
    """GET /v1/backends/{name}/configuration."""
    return web.json_response(configuration_body(call.id, _qubits(call)))


def get_properties(call: InstanceCall) -> web.Response:
    """GET /v1/backends/{name}/properties."""
    return web.json_response(properties_body(call.id, _qubits(call)))


def get_defaults(call: InstanceCall) -> web.Response:
    """GET /v1/backends/{name}/defaults: no backend takes pulses any more."""
    _qubits(call)
    return web.json_response(None)


def get_instance(call: InstanceCall) -> web.Response:
    """GET /v1/instance."""
    return web.json_response(instance_body(call.instance))


def get_instance_configuration(call: InstanceCall) -> web.Response:
    """GET /v1/instances/configuration."""
    return web.json_response(configuration_of_instance_body(call.instance))


def get_usage(call: InstanceCall) -> web.Response:
    """GET /v1/instances/usage."""
    is_spent = call.fault("usage_limit") is not None
    return web.json_response(usage_body(call.instance, call.now, is_spent=is_spent))


ROUTES: list[Route] = [
    ("backends", "GET", "/backends", list_backends),
    ("backend_configuration", "GET", "/backends/{id}/configuration", get_configuration),
    ("backend_properties", "GET", "/backends/{id}/properties", get_properties),
    ("backend_status", "GET", "/backends/{id}/status", get_status),
    ("backend_defaults", "GET", "/backends/{id}/defaults", get_defaults),
    ("instance", "GET", "/instance", get_instance),
    ("instance_configuration", "GET", "/instances/configuration", get_instance_configuration),
    ("usage", "GET", "/instances/usage", get_usage),
]


def _qubits(call: InstanceCall) -> int:
    """Check that there is such a backend and such a calibration of it; return its size.

    A time in `updated_before` changes nothing: there is one calibration for all times.
    """
    call.instance.state.check_backend(call.id, status=404)
    if call.query.get("calibration_id", [CALIBRATION_ID]) != [CALIBRATION_ID]:
        raise invalid(f"calibration_id must be {CALIBRATION_ID!r}, the only one.")
    return call.instance.backends[call.id]


def _down(call: InstanceCall) -> str | None:
    """Return what a fault makes of the backends, offline or paused, or None."""
    fault = call.fault("backend_offline", "backend_paused")
    return None if fault is None else fault.kind.removeprefix("backend_")


def _queue_length(call: InstanceCall, backend: str) -> int:
    return queue_length(call.instances.values(), call.now, backend)
