"""Settings: one declaration, four sources in a fixed order, and errors that name all that is wrong."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ByteSize

from proponent.errors import NotFoundError, SpecError
from proponent.gateway.effective_settings import flag_of, load_settings, variable_of
from proponent.gateway.settings import Settings

NAMES = sorted(Settings.model_fields)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(variable_of(name), raising=False)


def another(name: str, directory: Path) -> Any:
    """A valid value that is not the default."""
    value = getattr(Settings(), name)
    if name == "disclosure":
        return "ranks"
    if name == "worker_host":
        return "processes"
    if name == "ray":
        return "10.0.0.1:6379"
    if name == "model_settings":
        return ["digits.workers=2", "a.b.max_wait=0.5"]
    if value == "":
        return "text"
    if isinstance(value, bool) or name == "explorer":
        return not value
    if isinstance(value, ByteSize):
        return f"{value // (1 << 20) + 1}MiB"
    if name == "trace_share":
        return value / 2
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple):
        return ["digits", "cats"]
    if name.endswith("_address"):
        return "[::1]:0"
    if name == "otlp_endpoint":
        return "http://[::1]:4318"
    path = directory / name
    path.write_text("secret text")
    return str(path)


def complete(name: str, value: Any, directory: Path) -> dict[str, Any]:
    """The value with what it needs beside it."""
    pair = ("tls_certificate", "tls_key", "tls_client_ca")
    others = pair[:2] if name in pair else ()
    others += ("jwt_issuer", "jwt_audience") if name == "jwt_keys" else ()
    others += ("ray", "row_shards") if name in ("ray", "row_shards") else ()
    return {**{other: another(other, directory) for other in others}, name: value}


def written(values: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def command(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "proponent.cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env={"PATH": "", **environment})


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_read_from_file_environment_and_command_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = complete(name, another(name, tmp_path), tmp_path)
    expected = Settings(**values)
    assert getattr(expected, name) != getattr(Settings(), name)
    file = written(values, tmp_path / "serve.yaml")
    assert load_settings({}, file).settings == load_settings(values).settings == expected
    assert (load_settings({}, file).origins[name], load_settings(values).origins[name]) == (str(file), flag_of(name))
    for key, value in values.items():
        monkeypatch.setenv(variable_of(key), ",".join(value) if isinstance(value, list) else str(value))
    read = load_settings({})
    assert read.settings == expected and read.origins[name] == variable_of(name) == f"PROPONENT_{name.upper()}"


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "10.0.0.1", ":6379", "head:99999", "local", ""])
def test_what_names_no_cluster_is_refused_before_anything_starts(address: str) -> None:
    with pytest.raises(SpecError, match=f"'ray' has value '{address}' from --ray, expected host:port or auto"):
        load_settings({"ray": address, "row_shards": "2"})


@pytest.mark.parametrize(("flag", "variable", "key"), list(itertools.product([True, False], repeat=3)))
def test_the_command_line_wins_over_the_environment_over_the_file_over_the_default(
    flag: bool, variable: bool, key: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written({"workers": 2} if key else {}, tmp_path / "serve.yaml")
    if variable:
        monkeypatch.setenv("PROPONENT_WORKERS", "3")
    effective = load_settings({"workers": "4"} if flag else {}, file)
    expected = (
        (4, "--workers")
        if flag
        else (3, "PROPONENT_WORKERS")
        if variable
        else (2, str(file))
        if key
        else (1, "default")
    )
    assert (effective.settings.workers, effective.origins["workers"]) == expected


def test_the_effective_settings_are_a_file_that_gives_them_again(tmp_path: Path) -> None:
    values: dict[str, Any] = {}
    for name in NAMES:
        values |= complete(name, another(name, tmp_path), tmp_path)
    effective = load_settings(values)
    text = effective.as_yaml()
    (tmp_path / "again.yaml").write_text(text)
    assert load_settings({}, tmp_path / "again.yaml").settings == effective.settings
    assert "secret text" not in text


def test_the_command_shows_the_effective_settings_and_where_each_came_from(tmp_path: Path) -> None:
    file = written({"max_image_bytes": "2MiB", "drain_delay": 1}, tmp_path / "serve.yaml")
    done = command(
        "serve", "shop", "--config", file, "--print-config", "--drain-delay", "2", PROPONENT_MAX_STREAMS="7"
    )
    assert done.returncode == 0, done.stderr
    lines = {line.partition(":")[0]: line.split("  # ") for line in done.stdout.splitlines()}
    shown = {name: (json.loads(line[0].partition(":")[2]), line[1]) for name, line in lines.items()}
    assert shown["store"] == ("shop", "STORE")
    assert shown["drain_delay"] == (2.0, "--drain-delay")
    assert shown["max_streams"] == (7, "PROPONENT_MAX_STREAMS")
    assert shown["max_image_bytes"] == (2 << 20, f"{file}; 2.0MiB")
    assert shown["workers"] == (1, "default")
    assert sorted(shown) == NAMES


BAD = [
    ("workers", 0, "a value greater than or equal to 1"),
    ("workers", "many", "a valid integer"),
    ("drain_delay", -1, "a value greater than or equal to 0"),
    ("request_timeout", "nan", "a value less than or equal to 86400"),
    ("max_image_bytes", "lots", "a size, e.g. 10MiB"),
    ("max_image_bytes", "9" * 400, "a value less than or equal to 1073741824"),
    ("max_image_bytes", "9" * 400 + "MB", "a size, e.g. 10MiB"),
    ("max_image_bytes", "2GiB", "a value less than or equal to 1073741824"),
    ("max_predictions", 0, "a value greater than or equal to 1"),
    ("reflection", "perhaps", "a valid boolean"),
    ("grpc_address", "8500", "host:port"),
    ("http_address", "host:99999", "host:port"),
    ("tokens_file", "nowhere", "the path of a file that exists"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD)
def test_a_bad_value_is_named_with_its_source_and_what_was_expected(
    name: str, value: Any, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written({name: value}, tmp_path / "serve.yaml")
    monkeypatch.setenv(variable_of(name), str(value))
    for flags, config, source in (
        ({name: str(value)}, file, flag_of(name)),
        ({}, file, variable_of(name)),
        ({}, file, str(file)),
    ):
        if source == str(file):
            monkeypatch.delenv(variable_of(name))
        with pytest.raises(SpecError) as caught:
            load_settings(flags, config)
        assert caught.value.field == name
        for part in (repr(name), str(value), f"from {source}", f"expected {expected}"):
            assert part in caught.value.message


def test_a_truth_value_is_not_a_number(tmp_path: Path) -> None:
    for name in ("workers", "drain_delay", "max_image_bytes"):
        with pytest.raises(SpecError, match=rf"{name}.* has value True .* expected a number"):
            load_settings({}, written({name: True}, tmp_path / "serve.yaml"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "max_image_byte: 5",
            r"'max_image_byte' from .*serve\.yaml is unknown \(value 5\), expected max_image_bytes",
        ),
        ("config: x.yaml", r"'config' from .*serve\.yaml is unknown"),
        ("3: 4", r"'3' from .*serve\.yaml is unknown"),
        ("[1, 2]", r"serve\.yaml: expected a mapping of settings, got list"),
        ("a: [", r"serve\.yaml cannot be read as YAML"),
        ("tls_key: serve.yaml", "TLS needs both a certificate and a key"),
        ("tls_client_ca: serve.yaml", "a client CA needs a server certificate"),
        ("jwt_keys: serve.yaml", "jwt_keys needs a jwt_issuer and a jwt_audience"),
    ],
)
def test_what_a_file_may_not_say(content: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text(content)
    with pytest.raises(SpecError, match=expected):
        load_settings({}, tmp_path / "serve.yaml")


def test_an_empty_file_changes_nothing_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text("# nothing yet\n")
    assert load_settings({}, tmp_path / "serve.yaml").settings == Settings()
    with pytest.raises(NotFoundError, match=r"settings file not found: /.*none\.yaml"):
        load_settings({}, tmp_path / "none.yaml")


def test_an_error_of_settings_is_one_line_and_exit_code_2() -> None:
    done = command("serve", PROPONENT_WORKERS="0")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        "error: setting 'workers' has value '0' from PROPONENT_WORKERS, "
        "expected a value greater than or equal to 1 [SPEC_INVALID]\n"
    )


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("PROPONENT_TOKEN_FILE", "PROPONENT_TOKENS_FILE"),
        ("PROPONENT_MAX_IMAGE_BYTE", "PROPONENT_MAX_IMAGE_BYTES"),
        ("proponent_allow_thumbnail", "PROPONENT_ALLOW_THUMBNAILS"),
    ],
)
def test_a_misspelt_variable_is_refused(variable: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SpecError, match=f"environment variable {variable} is not a setting, expected {meant}"):
        load_settings({})


@pytest.mark.parametrize("name", ["CONFIG", "DATA", "FAULT", "FAULT_TRACE", "SERVICE_HOST", "PORT_8500_TCP"])
def test_variables_of_others_are_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own beside the settings, and those that Kubernetes makes for a service of this name."""
    monkeypatch.setenv(f"PROPONENT_{name}", "1")
    assert load_settings({}).settings == Settings()


def test_every_setting_is_a_flag_in_help_of_its_panel() -> None:
    done = command("serve", "--help", COLUMNS="200", TERMINAL_WIDTH="200")
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert f" {flag_of(name)} " in done.stdout, name


def test_help_of_the_commands_does_not_wait_for_settings() -> None:
    code = (
        "import sys, runpy; sys.argv = ['proponent', '--help']\n"
        "try: runpy.run_module('proponent.cli', run_name='__main__')\n"
        "except SystemExit: print(sorted({'pydantic', 'torch', 'faiss', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_a_model_has_the_settings_of_all_where_it_has_none_of_its_own(tmp_path: Path) -> None:
    file = written({"workers": 3, "model_settings": {"cats": {"workers": 2, "max_wait": 0.5}}}, tmp_path / "s.yaml")
    settings = load_settings({"batch_size": "4"}, file).settings
    cats, dogs = settings.of("cats"), settings.of("dogs")
    assert [(each.workers, each.max_wait, each.batch_size) for each in (cats, dogs)] == [(2, 0.5, 4), (3, 10.0, 4)]
    assert settings.most("workers") == 3


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (["cats.workers=0"], r"'model_settings\.cats\.workers' has value '0', expected .*1"),
        (["cats.grpc_address=[::]:1"], r"'model_settings\.cats\.grpc_address' is unknown, expected one of .*workers"),
        (["workers=2"], r"'model_settings' .*expected MODEL\.KEY=VALUE"),
        ({"cats": 2}, r"'model_settings' has value 2"),
    ],
)
def test_a_wrong_setting_of_one_model_is_named(value: Any, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        load_settings({"model_settings": value})
