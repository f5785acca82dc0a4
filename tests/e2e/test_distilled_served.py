"""A bundle with teachers and coded rows, built by the command line and served: what its replies say."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from running import RunningGateway, cli

import tiny
from proponent.index.bundle import read_manifest
from proponent.index.store import Store
from proponent.v1 import explanation_pb2 as pb

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TRAINING = {"factory": "proponent.training:fit", "kwargs": {"epochs": 30, "lr": 0.1, "batch_size": 16}}


def test_replies_say_that_scores_are_of_the_recipe(tmp_path: Path) -> None:
    curvature = {"kind": "ekfac", "pseudo_queries": 60, "embedding_size": 8}
    path = tiny.project(
        tmp_path / "project", model="grouped", expected_accuracy=0.4, training=TRAINING, curvature=curvature
    )
    store = tmp_path / "store"
    cli("rebuild", str(path), "--store", str(store), "--teachers", "2", "--quiet")
    manifest = read_manifest(Store(store).current("toy"))
    assert (manifest.embedding_size, manifest.row_groups) == (8, 3)
    picture = io.BytesIO()
    Image.fromarray(tiny.pictures(1, seed=1)[0][0].numpy()).save(picture, format="PNG")
    gateway = RunningGateway(store, tmp_path / "gateway.log", "--worker-host", "processes")
    try:
        gateway.wait_ready()
        answer = gateway.rpc.Explain(pb.ExplainRequest(model="toy", encoded_image=picture.getvalue(), top_k=3))
        [notice] = [each for each in answer.notices if each.code == pb.Notice.CODE_SCORES_DISTILLED]
        assert notice.count == 2 and "speak of the recipe" in notice.message
        assert "2 of them on a half of the training set" in notice.message
        assert all(len(result.proponents) == 3 for result in answer.results)
        described = gateway.http.get("/v1/models/toy").json()
        assert described["teachers"] == 2 and described["curvature"] == "ekfac"
        gateway.stop()
    finally:
        gateway.close()
