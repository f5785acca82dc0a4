"""A connection of this process to a Ray cluster, with an error in place of minutes of silence where there is none."""

from __future__ import annotations

import logging
import socket
from typing import Any

import ray
from ray.exceptions import RayError

from proponent.errors import UnavailableError

REACH_S = 5.0


def connect(address: str, **options: Any) -> None:
    """Joins the cluster at an address, for as long as this process lives or until ``ray.shutdown``.

    Args:
        address: Host and port of a cluster's head, ``auto`` for the cluster that this machine belongs to, or
            ``local`` for one of this machine alone.
        options: Of ``ray.init``.

    Raises:
        UnavailableError: There is no cluster at the address, or it is of another version.
    """
    try:
        if "://" in address:
            raise ValueError("expected host:port, auto or local; Ray's client protocol is not spoken")
        _reach(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise UnavailableError(f"--ray has value {address!r}: {error}", field="ray", reason="NO_CLUSTER") from error


def _reach(address: str) -> None:
    """Raises OSError where nobody listens: Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon:
        # What Ray makes of a loopback address.
        there = ray.util.get_node_ip_address() if host in ("localhost", "127.0.0.1") else host
        socket.create_connection((there, int(port)), timeout=REACH_S).close()
