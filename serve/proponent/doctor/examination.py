"""All checks, in the order in which a start would meet them."""

from __future__ import annotations

from collections.abc import Iterator

from proponent.doctor.addresses import check_addresses, check_collector
from proponent.doctor.audit import check_audit_log
from proponent.doctor.finding import Finding
from proponent.doctor.machine import check_clock, check_java, check_open_files, check_scratch, check_torch
from proponent.doctor.secrets import check_callers, check_tls
from proponent.doctor.store import check_bundles, check_store, check_user
from proponent.doctor.workers import check_workers
from proponent.gateway.settings import Settings

_CHECKS = (
    check_addresses,
    check_tls,
    check_callers,
    check_audit_log,
    check_store,
    check_bundles,
    check_java,
    check_torch,
    check_workers,
    check_scratch,
    check_open_files,
    check_user,
    check_clock,
    check_collector,
)


def examine(settings: Settings) -> Iterator[Finding]:
    """What each check finds, one after the other; nothing is changed."""
    for check in _CHECKS:
        yield from check(settings)
