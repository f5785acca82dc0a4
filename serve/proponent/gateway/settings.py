"""What an operator decides about a gateway: every setting and limit, declared once.

The flags of ``proponent serve``, the environment variables, the keys of its YAML file and their documentation are
all made from the fields of ``Settings``.
"""

from __future__ import annotations

import os
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from proponent.errors import SpecError
from proponent.gateway.lane import Lane
from proponent.gateway.setting_types import (
    Address,
    Budget,
    ByModel,
    Cores,
    Count,
    Directory,
    HostName,
    MessageSize,
    Milliseconds,
    Names,
    Niceness,
    OptionalCluster,
    OptionalFile,
    OptionalLevel,
    OptionalPath,
    OptionalSwitch,
    OptionalUrl,
    Processes,
    ProcessesOrNone,
    Rate,
    Seconds,
    SecondsOrZero,
    ShardsOrNone,
    Share,
    Size,
    Slots,
    Text,
    Waiting,
    WholeSeconds,
    Window,
    is_loopback,
)
from proponent.results import DisclosureLevel

MEBIBYTE = 1 << 20
REPLY_BYTES = 128 * MEBIBYTE
"""Largest reply, above what ``max_influences`` and ``max_thumbnails`` allow in practice."""

ADDRESSES = "Addresses"
MODELS = "Models and workers"
DISCLOSURE = "What callers may see"
SECURITY = "Who may call"
TIMEOUTS = "Timeouts"
LIMITS = "Limits"
TRACES = "Traces"


def _setting(default: Any, panel: str, description: str, *, flag: str = "", by_model: bool = False) -> Any:
    extra: dict[str, Any] = {"panel": panel, "flag": flag, "by_model": by_model}
    return Field(default, description=description, json_schema_extra=extra)


class Settings(BaseSettings):
    """All settings of ``proponent serve``; ``load_settings`` reads them from where operators write them."""

    model_config = SettingsConfigDict(env_prefix="PROPONENT_", env_ignore_empty=True, extra="forbid", frozen=True)

    store: Directory = _setting(Path("model_store"), MODELS, "Directory of models and their bundles.", flag="STORE")

    grpc_address: Address = _setting("127.0.0.1:8500", ADDRESSES, "Where gRPC listens; port 0 takes a free one.")
    http_address: Address = _setting("127.0.0.1:8080", ADDRESSES, "Where HTTP listens; port 0 takes a free one.")
    reflection: bool = _setting(True, ADDRESSES, "Let gRPC clients ask for the schema.")

    explorer: OptionalSwitch = _setting(
        None, ADDRESSES, "Serve the explorer's page at /; left out: where HTTP listens on loopback alone."
    )

    models: Names = _setting(
        (), MODELS, "Models to serve (the flag once for each, else separated by commas); none: all.", flag="--model"
    )
    model_settings: ByModel = _setting(
        {},
        MODELS,
        "Settings of one model where they differ from those of all (the flag once for each, else separated by "
        "commas; in YAML a mapping of models to mappings of keys).",
        flag="--model-setting",
    )
    watch: bool = _setting(
        False,
        MODELS,
        "Look at the store: serve the models that come, drain those that go, and take what becomes current.",
    )
    worker_host: HostName = _setting(
        "torchserve", MODELS, "What runs the workers: TorchServe, or plain processes, which need no Java."
    )
    weights: OptionalPath = _setting(
        None,
        MODELS,
        "Deployed weights of the one model served, instead of the bundle's copy; same SHA-256.",
        by_model=True,
    )
    workers: Processes = _setting(1, MODELS, "Python processes of each model that explain.", by_model=True)
    prediction_workers: ProcessesOrNone = _setting(
        1,
        MODELS,
        "Python processes of each model that only predict; 0: those that explain predict as well.",
        by_model=True,
    )
    explanation_niceness: Niceness = _setting(
        10,
        MODELS,
        "How far the processes that explain stand back for others on a busy machine, as nice counts.",
        by_model=True,
    )
    cores: Cores = _setting(0, MODELS, "Cores shared by all workers; 0 means all of the machine.", by_model=True)
    ray: OptionalCluster = _setting(
        None,
        MODELS,
        "Ray cluster that holds the rows of bundles in place of the workers (needs 'proponent[ray]' and row_shards): "
        "host:port of its head, or auto for the cluster that this machine belongs to.",
    )
    row_shards: ShardsOrNone = _setting(
        0,
        MODELS,
        "Shards that the rows of a bundle are divided into on the cluster, a scanner for each; 0: workers hold the "
        "rows themselves.",
        by_model=True,
    )
    shard_cores: Processes = _setting(1, MODELS, "Processors of each scanner.", by_model=True)
    batch_size: Slots = _setting(16, MODELS, "Most requests in one batch.", by_model=True)
    batch_delay_ms: Milliseconds = _setting(
        2,
        MODELS,
        "How long a batch of explanations that has fewer requests than the last one waits for more.",
        by_model=True,
    )
    prediction_batch_delay_ms: Milliseconds = _setting(1, MODELS, "The same of predictions.", by_model=True)

    allow_examples: bool = _setting(
        False, DISCLOSURE, "Let callers look up training examples and be told their sources."
    )
    allow_thumbnails: bool = _setting(
        False, DISCLOSURE, "Let replies carry what shows training examples: thumbnails, texts, rows."
    )
    allow_samples: bool = _setting(
        False, DISCLOSURE, "Let callers see the held-out inputs that a bundle keeps, whole and as thumbnails."
    )

    disclosure: OptionalLevel = _setting(
        None,
        DISCLOSURE,
        "What callers are told of training examples whose token does not say it; left out: full on loopback without "
        "tokens, else ranks.",
    )

    caller_rate: Rate = _setting(
        0.0, DISCLOSURE, "Most calls a second of one caller whose token does not say it; 0: no bound."
    )
    caller_explanations: Budget = _setting(
        0, DISCLOSURE, "Most explanations of one caller in a window whose token does not say it; 0: no bound."
    )
    caller_examples: Budget = _setting(
        0,
        DISCLOSURE,
        "Most different training examples that one caller is told of in a window whose token does not say it; 0: no "
        "bound.",
    )
    caller_window: Window = _setting(86_400.0, DISCLOSURE, "Length of a window.")
    audit_log: OptionalPath = _setting(
        None,
        DISCLOSURE,
        "Write who was told what of training examples to this file, a JSON object a line; what cannot be logged is "
        "not told.",
    )
    audit_log_bytes: Size = _setting("64MiB", DISCLOSURE, "Size from which on the audit log is rotated.")
    audit_log_files: Slots = _setting(16, DISCLOSURE, "Older parts of the audit log that are kept.")

    insecure: bool = _setting(
        False, SECURITY, "Listen on other addresses than loopback without TLS, or without asking who calls."
    )
    tokens_file: OptionalFile = _setting(
        None,
        SECURITY,
        "Bearer tokens: lines made by `proponent token`, read again when they change; without it every caller may "
        "call.",
    )
    jwt_keys: OptionalFile = _setting(
        None,
        SECURITY,
        "JSON Web Key Set of public keys, read again when it changes; JSON Web Tokens that they verify (RS256, "
        "ES256, EdDSA) are accepted too.",
    )
    jwt_issuer: Text = _setting("", SECURITY, "What the claim iss must be.")
    jwt_audience: Text = _setting("", SECURITY, "What the claim aud must be or hold.")
    jwt_leeway: SecondsOrZero = _setting(30.0, SECURITY, "How far the issuer's clock may be off.")
    tls_certificate: OptionalFile = _setting(
        None, SECURITY, "PEM chain of the server; with the key, gRPC and HTTP speak TLS."
    )
    tls_key: OptionalFile = _setting(None, SECURITY, "PEM private key.")
    tls_client_ca: OptionalFile = _setting(
        None, SECURITY, "PEM authorities; clients must then show a certificate signed by one of them."
    )

    request_timeout: Seconds = _setting(
        30.0, TIMEOUTS, "Longest time for one call; a shorter deadline of the caller's wins."
    )
    worker_timeout: WholeSeconds = _setting(
        120, TIMEOUTS, "A worker that takes longer for one batch is replaced.", by_model=True
    )
    start_timeout: Seconds = _setting(
        180.0, TIMEOUTS, "Longest time until a worker is ready, before it is started again.", by_model=True
    )
    idle_timeout: Seconds = _setting(
        10.0, TIMEOUTS, "Longest time without a byte while the headers or the body of an HTTP request come in."
    )
    transfer_timeout: Seconds = _setting(
        60.0, TIMEOUTS, "Longest time for one body or message to come in, and for a reply to be taken."
    )
    fair_transfer_timeout: Seconds = _setting(
        2.0, TIMEOUTS, "Longest time for one message of gRPC to come in while others wait to send theirs."
    )
    drain_delay: SecondsOrZero = _setting(
        5.0, TIMEOUTS, "How long calls are still taken after SIGTERM, while /readyz and gRPC health say not ready."
    )
    drain_timeout: Seconds = _setting(20.0, TIMEOUTS, "Longest time that calls in flight get to finish at the end.")

    max_image_bytes: MessageSize = _setting("10MiB", LIMITS, "Largest encoded image.")
    max_tensor_bytes: MessageSize = _setting("10MiB", LIMITS, "Largest tensor.")
    max_body_bytes: MessageSize = _setting(
        "32MiB", LIMITS, "Largest HTTP body (base64 adds a third to an image; a body may hold several)."
    )
    max_buffered_bytes: Size = _setting(
        "256MiB",
        LIMITS,
        "Request bodies held at the same time, by gRPC and HTTP together; half of one caller known by a token.",
    )
    max_instances: Count = _setting(256, LIMITS, "Most instances in one HTTP call.")
    max_influences: Count = _setting(100_000, LIMITS, "Most training examples in one reply, all lists together.")
    max_thumbnails: Count = _setting(2_000, LIMITS, "The same where each comes with a thumbnail.")
    max_suspects: Count = _setting(10_000, LIMITS, "Most rows of one page of suspects, examples or samples.")
    max_call_cost: Seconds = _setting(
        20.0,
        LIMITS,
        "Longest estimated time of one call on one core; a call estimated above it is refused.",
        by_model=True,
    )
    max_predictions: Slots = _setting(
        128, LIMITS, "Most predictions at the workers of a model at a time.", by_model=True
    )
    max_explanations: Slots = _setting(
        64, LIMITS, "The same of explanations, exact scores, removals and flip sets together.", by_model=True
    )
    worker_wait_target: Seconds = _setting(
        0.1,
        LIMITS,
        "Wait at busy workers from which on they are sent fewer requests at a time; the others wait in turn.",
        by_model=True,
    )
    max_waiting: Waiting = _setting(
        512, LIMITS, "Calls that wait for the workers of a model; 0: none.", by_model=True
    )
    max_wait: Seconds = _setting(
        10.0,
        LIMITS,
        "Longest time that a call may be expected to wait for workers; one that would is refused.",
        by_model=True,
    )
    max_streams: Slots = _setting(
        32, LIMITS, "Streams open at the same time; half of them of one caller who is known by a token."
    )
    max_parts: Slots = _setting(
        16, LIMITS, "Items of one stream, or instances of one HTTP call, that are worked on at the same time."
    )
    max_connections: Count = _setting(
        1024, LIMITS, "Connections of gRPC and of HTTP, each; fewer where the process may not open so many files."
    )

    otlp_endpoint: OptionalUrl = _setting(
        None, TRACES, "Collector that traces are sent to by OTLP over HTTP (needs 'proponent[otel]'); left out: none."
    )
    trace_share: Share = _setting(
        1.0, TRACES, "Share of the calls that are traced; for a call that comes with a traceparent, that decides."
    )

    @model_validator(mode="after")
    def _tls_is_complete(self) -> Settings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise SpecError("TLS needs both a certificate and a key, got one of them", field="tls_certificate")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise SpecError("a client CA needs a server certificate and key", field="tls_client_ca")
        return self

    @model_validator(mode="after")
    def _jwt_is_complete(self) -> Settings:
        if self.jwt_keys is not None and not (self.jwt_issuer and self.jwt_audience):
            raise SpecError("jwt_keys needs a jwt_issuer and a jwt_audience", field="jwt_keys")
        return self

    @model_validator(mode="after")
    def _shards_have_a_cluster(self) -> Settings:
        wanted = {
            "": self.row_shards,
            **{name: own.get("row_shards", 0) for name, own in self.model_settings.items()},
        }
        sharded = any(str(shards) != "0" for shards in wanted.values())
        if sharded and self.ray is None:
            raise SpecError("row_shards needs ray, which names the cluster that holds the rows", field="row_shards")
        if self.ray is not None and not sharded:
            raise SpecError("ray needs row_shards, the number of shards of a bundle's rows", field="ray")
        if self.ray is not None and find_spec("ray") is None:
            raise SpecError("ray: Ray is not installed: pip install 'proponent[ray]'", field="ray")
        return self

    @model_validator(mode="after")
    def _strangers_are_kept_out(self) -> Settings:
        for name in ("grpc_address", "http_address"):
            address = getattr(self, name)
            if not (is_loopback(address) or self.is_closed or self.insecure):
                raise SpecError(
                    f"{name} {address!r} can be reached from elsewhere: expected TLS (tls_certificate, tls_key) and "
                    "a way to know callers (tokens_file, jwt_keys or tls_client_ca), or insecure to serve anybody",
                    field=name,
                )
        return self

    @model_validator(mode="after")
    def _models_have_settings_of_their_own(self) -> Settings:
        for model, values in self.model_settings.items():
            for key, value in values.items():
                _value_for_a_model(model, key, value)
        return self

    @cached_property
    def _by_model(self) -> dict[str, Settings]:
        return {
            model: self.model_copy(
                update={key: _value_for_a_model(model, key, value) for key, value in values.items()}
            )
            for model, values in self.model_settings.items()
        }

    def of(self, model: str) -> Settings:
        """The settings that count for a model."""
        return self._by_model.get(model, self)

    def most(self, name: str) -> int:
        """The largest value that a number has for any model."""
        return max(int(getattr(each, name)) for each in (self, *self._by_model.values()))

    @property
    def is_closed(self) -> bool:
        """Whether connections are encrypted, and callers known."""
        return self.tls_certificate is not None and (self.asks_for_tokens or self.tls_client_ca is not None)

    @property
    def asks_for_tokens(self) -> bool:
        """Whether callers must show a token."""
        return self.tokens_file is not None or self.jwt_keys is not None

    @property
    def disclosure_level(self) -> DisclosureLevel:
        """What callers are told whose token does not say it."""
        if self.disclosure is not None:
            return DisclosureLevel[self.disclosure.upper()]
        local = is_loopback(self.grpc_address) and is_loopback(self.http_address)
        return DisclosureLevel.FULL if local and not self.asks_for_tokens else DisclosureLevel.RANKS

    @property
    def serves_explorer(self) -> bool:
        """Whether HTTP serves the explorer's page."""
        return is_loopback(self.http_address) if self.explorer is None else self.explorer

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The queues of each model."""
        return tuple(Lane) if self.prediction_workers else (Lane.EXPLANATIONS,)

    def workers_of(self, lane: Lane) -> int:
        """Processes of a lane of each model."""
        return self.prediction_workers if lane is Lane.PREDICTIONS else self.workers

    def batch_delay_of(self, lane: Lane) -> int:
        """Milliseconds that a batch of a lane waits to fill."""
        return self.prediction_batch_delay_ms if lane is Lane.PREDICTIONS else self.batch_delay_ms

    def threads_of(self, lane: Lane) -> int:
        """Most threads of one worker of a lane."""
        return max(1, (self.cores or os.cpu_count() or 1) // self.workers_of(lane))

    @property
    def probe_timeout(self) -> float:
        """How long a worker may take to say how it is: what it works on meanwhile stops at its callers' deadlines."""
        return self.request_timeout + 5.0

    @property
    def queue_size(self) -> int:
        """TorchServe's queue for a model: all calls in flight fit twice, since abandoned ones stay in it."""
        return 2 * (self.max_predictions + 4 * self.max_explanations)

    @property
    def max_message_bytes(self) -> int:
        """Largest gRPC request: room for an image just over its cap, so that the answer can name the field."""
        return max(self.max_image_bytes, self.max_tensor_bytes) + 8 * MEBIBYTE

    @property
    def max_messages(self) -> int:
        """Messages of gRPC that come in at the same time: each may turn out to be of the largest size."""
        return max(1, self.max_buffered_bytes // self.max_message_bytes)


BY_MODEL = tuple(
    name
    for name, field in Settings.model_fields.items()
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra["by_model"]
)
"""The settings that a model may have of its own."""


def _checker(key: str) -> TypeAdapter[Any]:
    field: Any = Settings.model_fields[key]
    return TypeAdapter(Annotated[field.annotation, *field.metadata])


def _value_for_a_model(model: str, key: str, value: Any) -> Any:
    """The value of a model's own setting; raises SpecError, which names it."""
    name = f"model_settings.{model}.{key}"
    if key not in BY_MODEL:
        raise SpecError(f"setting {name!r} is unknown, expected one of {', '.join(BY_MODEL)}", field=name)
    try:
        return _checker(key).validate_python(value)
    except ValidationError as error:
        expected = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise SpecError(f"setting {name!r} has value {value!r}, expected {expected}", field=name) from None
