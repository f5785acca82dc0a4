"""The service under load: a gateway of its own, its TorchServe called past it, and what each process uses.

What is called past the gateway are workers of their own in the same TorchServe, as ``package_model`` sets them up: a
gateway gathers batches itself and sends them whole, so that TorchServe gathers none for its workers.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from load_clients import Call
from PIL import Image

from proponent.gateway.effective_settings import load_settings
from proponent.gateway.lane import Lane
from proponent.gateway.torchserve.archive import write_archive
from proponent.gateway.torchserve.launch import Layout, TorchServeKeys
from proponent.index.bundle import Manifest
from proponent.v1 import explanation_pb2 as pb
from proponent.v1.inference_pb2 import PredictionsRequest
from proponent.v1.worker_pb2 import WorkerRequest

_START_S = 180.0
_WORKERS = ("model_service_worker", "proponent.worker.process")
_SERVICE = "/proponent.v1.ExplanationService"
_LANES = {"Predict": Lane.PREDICTIONS, "Explain": Lane.EXPLANATIONS}
PAST = "past-the-gateway"
"""The model's name where TorchServe is called itself."""


@dataclass(frozen=True)
class Service:
    """A running gateway and the TorchServe behind it."""

    process: psutil.Process
    grpc: str
    http: str
    layout: Layout

    def parts(self) -> dict[str, list[psutil.Process]]:
        """Gateway, Java, workers and what ends them with the gateway, by name."""
        below = self.process.children(recursive=True)
        commands = {p: " ".join(p.cmdline()) for p in below}
        return {
            "gateway": [self.process],
            "java": [p for p, c in commands.items() if "ModelServer" in c and "watchdog" not in c],
            "workers": [p for p, c in commands.items() if any(w in c for w in _WORKERS) and "watchdog" not in c],
            "watchdogs": [p for p, c in commands.items() if "watchdog" in c],
        }

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time that each part has used."""
        return {name: sum(sum(p.cpu_times()[:2]) for p in found) for name, found in self.parts().items()}

    def memory_mib(self) -> dict[str, float]:
        """Memory of each part that it shares with nobody."""
        return {
            name: round(sum(p.memory_full_info().uss for p in found) / 2**20, 2)
            for name, found in self.parts().items()
        }

    def calls(self, model: str, image: bytes) -> dict[str, dict[str, Call]]:
        """For each call what is sent to the gateway, and to TorchServe past it, by whom it is sent to."""
        config = self._config()
        past = f"127.0.0.1:{config['grpc_inference_port']}"
        past_http = config["inference_address"].removeprefix("http://")
        key = {"authorization": f"Bearer {TorchServeKeys.of(self.layout).inference}"}
        requests = {
            "Predict": WorkerRequest(predict=pb.PredictRequest(model=model, encoded_image=image)),
            "Explain": WorkerRequest(explain=pb.ExplainRequest(model=model, encoded_image=image)),
        }
        found: dict[str, dict[str, Call]] = {}
        for name, request in requests.items():
            verb, served = name.lower(), _LANES[name].served_as(PAST)
            message = getattr(request, verb).SerializeToString()
            wrapped = PredictionsRequest(model_name=served, input={"data": request.SerializeToString()})
            rpc = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
            direct = Call("grpc", past, rpc, wrapped.SerializeToString(), key)
            found[f"gRPC {name}"] = {
                "gateway": Call("grpc", self.grpc, f"{_SERVICE}/{name}", message),
                "torchserve": direct,
            }
            body = json.dumps({"instances": [{"image": base64.b64encode(image).decode()}]}).encode()
            path = f"/{'predictions' if name == 'Predict' else 'explanations'}/{served}"
            found[f"HTTP {name}"] = {
                "gateway": Call(
                    "http", self.http, f"/v1/models/{model}:{verb}", body, {"content-type": "application/json"}
                ),
                "torchserve": Call("http", past_http, path, image, {"content-type": "image/png", **key}),
            }
        item = pb.StreamExplainRequest(request=requests["Explain"].explain).SerializeToString()
        found["stream Explain"] = {
            "gateway": Call("stream", self.grpc, f"{_SERVICE}/StreamExplain", item),
            "torchserve": found["gRPC Explain"]["torchserve"],
        }
        return found

    def register_past(self, bundle: Path) -> None:
        """Starts workers that TorchServe itself gathers batches for, and waits until they answer."""
        settings = load_settings({}).settings
        keys, config = TorchServeKeys.of(self.layout), self._config()
        headers = {"Authorization": f"Bearer {keys.management}"}
        with httpx.Client(base_url=config["management_address"], headers=headers, timeout=_START_S) as client:
            for lane in settings.lanes:
                archive = write_archive(self.layout.model_store, PAST, "1.0", bundle, None, settings, lane=lane)
                params = {"url": archive.path.name, "synchronous": "true"}
                client.post("/models", params=params).raise_for_status()

    def _config(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.layout.config.read_text().splitlines())


@contextmanager
def running(python: str, store: Path, options: Sequence[str]) -> Iterator[Service]:
    """A gateway on free ports, with a temporary directory of its own."""
    with tempfile.TemporaryDirectory() as temporary, tempfile.NamedTemporaryFile("w+") as log:
        addresses = ["--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0", "--drain-delay", "0"]
        process = subprocess.Popen(
            [python, "-m", "proponent.cli", "serve", str(store), *addresses, *options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "TMPDIR": temporary},
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("ready "):
                raise SystemExit(f"the gateway did not start: {Path(log.name).read_text()}")
            found = dict(part.split("=", 1) for part in line.split()[1:])
            [root] = Path(temporary).glob("proponent-gateway-*")
            http = found["http"].removeprefix("http://")
            yield Service(psutil.Process(process.pid), found["grpc"], http, Layout(root))
        finally:
            process.terminate()
            process.wait(timeout=60)


def picture(manifest: Manifest) -> bytes:
    """A grey image as the model takes it."""
    shape = manifest.image_size or manifest.input_shape[-2:][::-1]
    out = io.BytesIO()
    Image.new(manifest.image_mode, tuple(shape), 128).save(out, "PNG")
    return out.getvalue()
