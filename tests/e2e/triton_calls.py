"""What Triton's clients get from a service. A process of its own: they define the protocol's messages themselves.

Usage: triton_calls.py GRPC_ADDRESS HTTP_ADDRESS MODEL IMAGE_FILE TENSOR_FILE; prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
import tritonclient.http.aio

from proponent import Client

OUTPUTS = ("label", "probabilities", "proponents.influence.ids", "proponents.influence.scores")


def tensor_input(module: ModuleType, tensor: np.ndarray, **how: bool) -> Any:
    made = module.InferInput("tensor", list(tensor.shape), "FP32")
    made.set_data_from_numpy(tensor, **how)
    return made


def image_input(module: ModuleType, image: bytes) -> Any:
    made = module.InferInput("image", [1], "BYTES")
    made.set_data_from_numpy(np.array([image], object))
    return made


def plain(result: Any, *names: str) -> dict[str, Any]:
    arrays = {name: result.as_numpy(name) for name in names}
    return {
        name: [[e.decode() if isinstance(e, bytes) else e for e in row.tolist()] for row in np.atleast_2d(array)]
        for name, array in arrays.items()
    }


def described(client: Any, model: str) -> dict[str, Any]:
    options = {"as_json": True} if isinstance(client, tritonclient.grpc.InferenceServerClient) else {}
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "unknown_ready": ready_or_error(client),
        "server": client.get_server_metadata(**options)["extensions"],
        "model": client.get_model_metadata(model, **options),
    }


def ready_or_error(client: Any) -> bool:
    try:
        return bool(client.is_model_ready("unknown"))
    except tritonclient.grpc.InferenceServerException as error:
        return str(error.status()) != "StatusCode.NOT_FOUND"


def inferred(module: ModuleType, client: Any, model: str, image: bytes, tensor: np.ndarray) -> dict[str, Any]:
    asked = [module.InferRequestedOutput(name) for name in OUTPUTS]
    explained = client.infer(model, [tensor_input(module, tensor)], outputs=asked, parameters={"top_k": 3})
    by_image = client.infer(model, [image_input(module, image)], request_id="mine")
    response = by_image.get_response() if module is tritonclient.http else by_image.get_response(as_json=True)
    return {
        "explained": plain(explained, *OUTPUTS),
        "by_image": plain(by_image, "label", "class_id", "probabilities"),
        "id": response["id"],
        "error": error_of(module, client, model, tensor),
    }


def error_of(module: ModuleType, client: Any, model: str, tensor: np.ndarray) -> list[str]:
    try:
        client.infer(model, [tensor_input(module, tensor[:, :, :-1])])
    except module.InferenceServerException as error:
        return [str(error.status()), error.message()]
    return []


async def inferred_by_aio(address: str, model: str, tensor: np.ndarray) -> dict[str, Any]:
    module = tritonclient.http.aio
    async with module.InferenceServerClient(address) as client:
        given = [tensor_input(module, tensor, binary_data=False)]
        asked = [module.InferRequestedOutput("label", binary_data=False)]
        return plain(await client.infer(model, given, outputs=asked), "label")


def main(grpc_address: str, http_address: str, model: str, image_file: str, tensor_file: str) -> None:
    image, tensor = Path(image_file).read_bytes(), np.load(tensor_file)
    found: dict[str, Any] = {}
    for name, module, address in (
        ("grpc", tritonclient.grpc, grpc_address),
        ("http", tritonclient.http, http_address),
    ):
        with module.InferenceServerClient(address) as client:
            found[name] = {**described(client, model), **inferred(module, client, model, image, tensor)}
    found["aio"] = asyncio.run(inferred_by_aio(http_address, model, tensor))
    with Client(grpc_address, model=model) as client:
        found["own"] = client.predict(image).label
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
