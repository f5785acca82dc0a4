"""Looks at everything that a gateway needs before it is started, and says what to do about what is missing."""

from proponent.doctor.examination import examine
from proponent.doctor.finding import Finding, Status

__all__ = ["Finding", "Status", "examine"]
