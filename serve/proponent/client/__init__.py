"""Typed clients of a running service, by gRPC: images in, explanations out as plain values."""

from proponent.client.aio import AsyncClient
from proponent.client.connection import Tls
from proponent.client.retry import Retry
from proponent.client.sync import Client

__all__ = ["AsyncClient", "Client", "Retry", "Tls"]
