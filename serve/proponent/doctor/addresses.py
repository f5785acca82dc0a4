"""Can the addresses be listened on, and is the collector of traces there."""

from __future__ import annotations

import errno
import importlib.util
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from proponent.doctor.finding import Finding, failure, ok, warning
from proponent.gateway.setting_types import split_address
from proponent.gateway.settings import Settings

_CONNECT_S = 2.0
_REMEDIES = {
    errno.EADDRINUSE: "end what listens there (ss -ltnp 'sport = :{port}' names it), or choose another {flag}",
    errno.EACCES: "ports below 1024 are reserved: choose another {flag}, or grant CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address: choose another {flag}",
}


def check_addresses(settings: Settings) -> Iterator[Finding]:
    """Tries to listen on each address for a moment."""
    for name in ("grpc_address", "http_address"):
        yield _listened(name, getattr(settings, name))


def _listened(name: str, address: str) -> Finding:
    host, port = split_address(address)
    flag = f"--{name.replace('_', '-')}"
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
            listener.listen()
    except socket.gaierror as error:
        return failure(name, f"{address}: {error.strerror}", f"name an address of this machine as {flag}")
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another {flag}").format(port=port, flag=flag)
        return failure(name, f"{address} cannot be listened on: {error.strerror}", remedy)
    return ok(name, f"{address} is free")


def check_collector(settings: Settings) -> Iterator[Finding]:
    """Whether traces, where they are wanted, can be sent."""
    endpoint = settings.otlp_endpoint
    if endpoint is None:
        return
    if (
        importlib.util.find_spec("opentelemetry.exporter") is None
        or importlib.util.find_spec("opentelemetry.sdk") is None
    ):
        yield failure("traces", "the packages for traces are not installed", "pip install 'proponent[otel]'")
        return
    parts = urlsplit(endpoint)
    address = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection(address, _CONNECT_S).close()
    except OSError as error:
        remedy = "start the collector, or mend --otlp-endpoint; calls are answered all the same, but not traced"
        yield warning("traces", f"no collector answers at {endpoint}: {error}", remedy)
    else:
        yield ok("traces", f"a collector answers at {endpoint}")
