"""TorchServe's private files: settings that close it, and archives that name their bundle."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from proponent.gateway.hosting.logs import last_words, tail
from proponent.gateway.settings import Settings
from proponent.gateway.torchserve.archive import archive_path, write_archive
from proponent.gateway.torchserve.launch import Layout, environment, free_ports, write_config


def test_everything_listens_on_the_loopback_and_urls_are_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.create()
    settings = Settings(store=tmp_path)
    write_config(layout, free_ports(), settings)
    values = dict(line.split("=", 1) for line in layout.config.read_text().splitlines())
    addresses = [value for key, value in values.items() if key.endswith("address")]
    assert len(addresses) == 4 and all("127.0.0.1" in address for address in addresses)
    assert len({value for key, value in values.items() if key.endswith("port")}) == 2
    assert (values["disable_token_authorization"], values["enable_metrics_api"]) == ("false", "false")
    assert values["allowed_urls"].startswith(f"file://{tmp_path}") and values["job_queue_size"] == str(
        settings.queue_size
    )


def test_an_archive_holds_handler_options_and_bundle(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path, workers=2, batch_size=4, worker_timeout=9, start_timeout=7.5)
    archive = write_archive(tmp_path, "toy", "1.0", Path("/store/b"), None, settings)
    manifest = json.loads((archive.path / "MAR-INF" / "MANIFEST.json").read_text())
    config = yaml.safe_load((archive.path / "model-config.yaml").read_text())
    assert (archive.path / manifest["model"]["handler"]).is_file()
    paths = {"bundle": "/store/b", "weights": None, "liveness": None}
    assert config["proponent"] == {"lane": "explanations", **paths}
    assert (config["minWorkers"], config["batchSize"]) == (2, 4)
    assert (config["responseTimeout"], config["startupTimeout"]) == (9, 8)


@pytest.mark.parametrize(("batch", "most"), [(1, 128 << 20), (4, 512 << 20), (10_000, 2**31 - 1)])
def test_the_answer_to_a_whole_batch_is_taken(tmp_path: Path, batch: int, most: int) -> None:
    layout = Layout(tmp_path)
    write_config(layout, free_ports(), Settings(store=tmp_path, batch_size=batch))
    assert f"\nmax_response_size={most}\n" in layout.config.read_text()


def test_predictions_have_workers_of_their_own_that_others_stand_back_for(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path, workers=3, cores=6, explanation_niceness=7)
    found = {}
    for lane in settings.lanes:
        archive = write_archive(tmp_path, "toy", "1.0", Path("/store/b"), None, settings, tmp_path, lane)
        manifest = json.loads((archive.path / "MAR-INF" / "MANIFEST.json").read_text())
        config = yaml.safe_load((archive.path / "model-config.yaml").read_text())
        assert manifest["model"]["modelName"] == archive.model
        section = config["proponent"]
        assert config["batchSize"] == 1 and "maxBatchDelay" not in config, "the gateway sends whole batches"
        found[archive.model] = (section["lane"], config["minWorkers"], section["threads"], section["niceness"])
    assert found == {"toy~predictions": ("predictions", 1, 6, 0), "toy": ("explanations", 3, 2, 7)}


def test_nobody_stands_back_where_all_answer_everything(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path, prediction_workers=0)
    [lane] = settings.lanes
    archive = write_archive(tmp_path, "toy", "1.0", Path("/store/b"), None, settings, tmp_path, lane)
    assert archive.model == "toy"
    assert yaml.safe_load((archive.path / "model-config.yaml").read_text())["proponent"]["niceness"] == 0


@pytest.mark.parametrize("name", ["a..b", "a...b", "a....", "0..~predictions"])
def test_every_name_of_a_model_becomes_a_directory_that_torchserve_takes(tmp_path: Path, name: str) -> None:
    path = archive_path(tmp_path, name, "1.0")
    assert path.parent == tmp_path and ".." not in path.name
    assert unquote(path.name) == f"{name}-1.0"


@pytest.mark.parametrize(("asked", "told"), [(0, 1), (1, 1), (7, 7)])
def test_no_delay_is_not_torchserves_default_of_100_ms(tmp_path: Path, asked: int, told: int) -> None:
    settings = Settings(store=tmp_path, batch_delay_ms=asked)
    archive = write_archive(tmp_path, "toy", "1.0", Path("/store/b"), None, settings)
    assert yaml.safe_load((archive.path / "model-config.yaml").read_text())["maxBatchDelay"] == told


def test_waiting_threads_sleep_unless_the_operator_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert environment(Layout(tmp_path), 3)["OMP_WAIT_POLICY"] == "passive"
    assert environment(Layout(tmp_path), 3)["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert environment(Layout(tmp_path), 3)["OMP_WAIT_POLICY"] == "active"


def test_the_tail_of_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == ""
    (tmp_path / "log").write_text("a\nb\nc\n")
    assert tail(tmp_path / "log", 2) == "b\nc"


def test_last_words_are_those_of_each_log_and_not_of_rotated_ones(tmp_path: Path) -> None:
    for name in ("worker.log", "worker.1.log", "java.log", "config.properties"):
        (tmp_path / name).write_text(name)
    assert last_words(tmp_path) == {"java": "java.log", "worker": "worker.log"}
