"""What an operator decides about a gateway."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from proponent.errors import SpecError

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds on what one caller, and all callers together, may ask for.

    Attributes:
        image_bytes: Largest encoded image.
        tensor_bytes: Largest tensor.
        body_bytes: Largest HTTP body (an image grows by a third in base64; a body may hold several).
        instances: Most instances in one HTTP call.
        stream_in_flight: Items of one stream, or of one HTTP call, that are worked on at the same time.
        influences: Most training examples in one reply, all lists together.
        thumbnails: The same where each comes with a thumbnail.
        suspects: Most rows of one page of suspects.
        predict: Predictions in flight.
        explain: Explanations in flight, exact scores, removals and flip sets counted apart by the same number.
        streams: Streams open at the same time.
        call_s: Longest estimated time of one call on one core (see ``bounds.cost``); longer ones are refused.
        bodies_bytes: Request bodies held at the same time, all callers and both doors together.
        connections: Connections of one door; fewer where the process may not open so many files.
        idle_timeout_s: Longest time without a byte while the headers or the body of an HTTP request come in.
        transfer_timeout_s: Longest time for one body or message to come in, and for a reply to be taken.
    """

    image_bytes: int = 10 * MEBIBYTE
    tensor_bytes: int = 10 * MEBIBYTE
    body_bytes: int = 32 * MEBIBYTE
    instances: int = 256
    stream_in_flight: int = 16
    influences: int = 100_000
    thumbnails: int = 2_000
    suspects: int = 10_000
    predict: int = 128
    explain: int = 64
    streams: int = 32
    call_s: float = 20.0
    bodies_bytes: int = 256 * MEBIBYTE
    connections: int = 1024
    idle_timeout_s: float = 10.0
    transfer_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise SpecError(f"limit {name!r} has value {value}, expected more than 0", field=name)

    @property
    def message_bytes(self) -> int:
        """Largest gRPC request: room for an image just over its cap, so that the answer can name the field."""
        return max(self.image_bytes, self.tensor_bytes) + 8 * MEBIBYTE

    @property
    def messages(self) -> int:
        """Messages of gRPC that come in at the same time: each may turn out to be of the largest size."""
        return max(1, self.bodies_bytes // self.message_bytes)

    @property
    def reply_bytes(self) -> int:
        """Largest reply, above what ``influences`` and ``thumbnails`` allow in practice."""
        return 128 * MEBIBYTE


@dataclass(frozen=True)
class Security:
    """Who may call, over what transport.

    Attributes:
        tokens_file: Bearer tokens, one ``TOKEN scope,scope`` a line; None lets every caller in.
        tls_certificate: PEM chain of the server; with ``tls_key`` both doors speak TLS.
        tls_key: PEM private key.
        tls_client_ca: PEM authorities; clients must then show a certificate signed by one of them.
    """

    tokens_file: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise SpecError("TLS needs both a certificate and a key, got one of them", field="tls_certificate")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise SpecError("a client CA needs a server certificate and key", field="tls_client_ca")
        for name, path in vars(self).items():
            if path is not None and not path.is_file():
                raise SpecError(f"file not found: {path}", field=name)


@dataclass(frozen=True)
class Settings:
    """All of it.

    Attributes:
        store: Directory of models and their bundles.
        grpc_address: ``host:port``; port 0 takes a free one.
        http_address: ``host:port``; port 0 takes a free one.
        models: Models to serve; empty means every model of the store.
        weights: Deployed weights of the one model served, instead of the bundle's copy; they must hash to the
            manifest's.
        workers: Python processes for each model.
        cores: Cores shared by all workers; 0 means all of the machine.
        batch_size: Most requests in one batch.
        batch_delay_ms: How long a batch waits to fill; at least 1, which 0 counts as.
        request_timeout_s: Longest time for one call; a shorter deadline of the caller's wins.
        worker_timeout_s: A worker that takes longer for one batch is replaced.
        start_timeout_s: Longest time until a worker is ready, before TorchServe is started again.
        drain_delay_s: How long calls are still taken after SIGTERM, while readiness and health say that the gateway
            is going: at least as long as a balancer needs to see it.
        drain_timeout_s: Longest time that calls in flight get to finish at the end.
        allow_examples: Whether callers may look up training examples (GetExample) and be told their sources.
        allow_thumbnails: Whether replies may carry thumbnails.
        reflection: Whether gRPC clients may ask for the schema.
    """

    store: Path
    grpc_address: str = "127.0.0.1:8500"
    http_address: str = "127.0.0.1:8080"
    models: tuple[str, ...] = ()
    weights: Path | None = None
    workers: int = 1
    cores: int = 0
    batch_size: int = 16
    batch_delay_ms: int = 2
    request_timeout_s: float = 30.0
    worker_timeout_s: int = 120
    start_timeout_s: float = 180.0
    drain_delay_s: float = 5.0
    drain_timeout_s: float = 20.0
    allow_examples: bool = False
    allow_thumbnails: bool = False
    reflection: bool = True
    limits: Limits = field(default_factory=Limits)
    security: Security = field(default_factory=Security)

    def __post_init__(self) -> None:
        for name in ("workers", "batch_size", "request_timeout_s", "worker_timeout_s", "start_timeout_s"):
            if getattr(self, name) <= 0:
                raise SpecError(f"setting {name!r} is {getattr(self, name)}, expected more than 0", field=name)
        if self.drain_delay_s < 0:
            raise SpecError(
                f"setting 'drain_delay_s' is {self.drain_delay_s}, expected 0 or more", field="drain_delay_s"
            )
        split_address(self.grpc_address, "grpc_address")
        split_address(self.http_address, "http_address")

    @property
    def threads(self) -> int:
        """Threads of one worker."""
        return max(1, (self.cores or os.cpu_count() or 1) // self.workers)

    @property
    def probe_timeout_s(self) -> float:
        """How long a worker may take to say how it is: what it works on meanwhile stops at its callers' deadlines."""
        return self.request_timeout_s + 5.0

    @property
    def queue_size(self) -> int:
        """TorchServe's queue for a model: all calls in flight fit twice, since abandoned ones stay in it."""
        return 2 * (self.limits.predict + 4 * self.limits.explain)


def split_address(address: str, name: str) -> tuple[str, int]:
    """Splits ``host:port`` (an IPv6 host in brackets).

    Raises:
        SpecError: It has no such form; ``name`` is the setting at fault.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise SpecError(f"setting {name!r} is {address!r}, expected host:port", field=name)
    return host.strip("[]"), int(port)
