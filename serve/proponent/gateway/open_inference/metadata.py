"""What the protocol's clients are told of the server and of a model."""

from __future__ import annotations

import proponent
from proponent.gateway.open_inference.inputs import expected_inputs
from proponent.gateway.open_inference.outputs import PREDICTION_OUTPUTS
from proponent.index.bundle import Manifest
from proponent.v1 import open_inference_pb2 as oip

EXTENSIONS = ("proponent.explanations", "binary_tensor_data")
PLATFORM = "pytorch_eager"
_Tensor = oip.ModelMetadataResponse.TensorMetadata


def server_metadata() -> oip.ServerMetadataResponse:
    """Name, version and extensions."""
    return oip.ServerMetadataResponse(name="proponent", version=proponent.__version__, extensions=EXTENSIONS)


def model_metadata(manifest: Manifest) -> oip.ModelMetadataResponse:
    """What a model takes, of which a request holds one set (see `expected_inputs`), and what it gives."""
    sizes = {"probabilities": [len(manifest.class_names)]}
    return oip.ModelMetadataResponse(
        name=manifest.model,
        versions=[manifest.digest],
        platform=PLATFORM,
        inputs=[
            _Tensor(name=each.name, datatype=each.datatype, shape=[-1, *each.shape])
            for one in expected_inputs(manifest.signature)
            for each in one
        ],
        outputs=[
            _Tensor(name=name, datatype=output.datatype, shape=[-1, *sizes.get(name, [])])
            for name, output in PREDICTION_OUTPUTS.items()
        ],
    )
