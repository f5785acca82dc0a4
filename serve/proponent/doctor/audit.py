"""The audit log, without which a gateway that is to write one does not start."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from proponent.doctor.finding import Finding, failure, ok
from proponent.errors import SpecError
from proponent.gateway.privacy.audit_log import AuditLog
from proponent.gateway.settings import Settings

_REMEDY = "give this user write access there, or name another --audit-log; each gateway needs one of its own"


def check_audit_log(settings: Settings) -> Iterator[Finding]:
    """Whether it can be written, and by no other process now; one that is not there is not made."""
    path = settings.audit_log
    if path is None:
        return
    try:
        if path.exists():
            AuditLog(path, settings.audit_log_bytes, settings.audit_log_files).close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except SpecError as error:
        yield failure("audit log", error.message, _REMEDY)
    except OSError as error:
        yield failure("audit log", f"{path} cannot be made: {error.strerror}", _REMEDY)
    else:
        yield ok("audit log", f"{path} can be written")
