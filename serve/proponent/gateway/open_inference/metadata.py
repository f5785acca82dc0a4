"""What the protocol's clients are told of the server and of a model."""

from __future__ import annotations

import proponent
from proponent.gateway.open_inference.outputs import PREDICTION_OUTPUTS
from proponent.gateway.open_inference.queries import IMAGE, TENSOR
from proponent.gateway.open_inference.tensors import BYTES, FP32
from proponent.index.bundle import Manifest
from proponent.v1 import open_inference_pb2 as oip

EXTENSIONS = ("proponent.explanations", "binary_tensor_data")
PLATFORM = "pytorch_eager"
_Tensor = oip.ModelMetadataResponse.TensorMetadata


def server_metadata() -> oip.ServerMetadataResponse:
    """Name, version and extensions."""
    return oip.ServerMetadataResponse(name="proponent", version=proponent.__version__, extensions=EXTENSIONS)


def model_metadata(manifest: Manifest) -> oip.ModelMetadataResponse:
    """What a model takes, of which a request holds one, and what it gives."""
    sizes = {"probabilities": [len(manifest.class_names)]}
    return oip.ModelMetadataResponse(
        name=manifest.model,
        versions=[manifest.digest],
        platform=PLATFORM,
        inputs=[
            _Tensor(name=TENSOR, datatype=FP32, shape=[-1, *manifest.input_shape]),
            _Tensor(name=IMAGE, datatype=BYTES, shape=[-1]),
        ],
        outputs=[
            _Tensor(name=name, datatype=output.datatype, shape=[-1, *sizes.get(name, [])])
            for name, output in PREDICTION_OUTPUTS.items()
        ],
    )
