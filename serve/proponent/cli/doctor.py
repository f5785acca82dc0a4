"""The command ``proponent doctor``: what would keep a gateway from running, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from proponent.cli.exit_codes import UNFIT, exits
from proponent.cli.options import CHECK, JsonOption
from proponent.cli.setting_flags import effective, settings_command
from proponent.errors import ProponentError

if TYPE_CHECKING:
    from proponent.doctor import Finding

_EXITS = exits(UNFIT)
_MARKS = {"ok": "ok  ", "warning": "warn", "failure": "FAIL"}


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    command = settings_command(doctor, _doctor, {"as_json": JsonOption}, _EXITS, hidden=True)
    app.command(cls=command, rich_help_panel=CHECK, epilog=_EXITS)(doctor)


def doctor() -> None:
    """Check everything that a gateway with these settings needs, and say what to do about what is missing.

    Takes every flag of `proponent serve`, its environment variables and its file. Looks at addresses, TLS and token
    files, the store, each bundle (by checksums), Java, PyTorch and its devices, the start of a worker of each model
    (tried in a process of its own), memory, temporary files, open files, the user, the clock, and the collector of
    traces. Nothing is changed. Warnings do not count as failures.

    Example: `proponent doctor model_store --grpc-address 127.0.0.1:8500`
    """


def _doctor(given: Mapping[str, Any], config: Path | None, as_json: bool) -> None:
    findings = list(_shown(_findings(given, config), as_json))
    failed = any(finding.status.value == "failure" for finding in findings)
    if as_json:
        checks = [{**asdict(finding), "status": finding.status.value} for finding in findings]
        typer.echo(json.dumps({"ok": not failed, "checks": checks}))
    if failed:
        raise typer.Exit(UNFIT)


def _findings(given: Mapping[str, Any], config: Path | None) -> Iterator[Finding]:
    from proponent.doctor import Finding, Status, examine

    try:
        settings = effective(given, config).settings
    except ProponentError as error:
        yield Finding("settings", Status.FAILURE, error.message, "docs/settings.md has all names, units and bounds")
        return
    yield from examine(settings)


def _shown(findings: Iterable[Finding], as_json: bool) -> Iterator[Finding]:
    """The findings, printed one by one as they come where people read them: some checks take a while."""
    for finding in findings:
        if not as_json:
            typer.echo(f"{_MARKS[finding.status.value]}  {finding.check}: {finding.found}")
            if finding.remedy:
                typer.echo(f"      -> {finding.remedy}")
        yield finding
