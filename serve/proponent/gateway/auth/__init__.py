"""Who calls, and what each caller may do and be told."""

from proponent.gateway.auth.authenticator import Authenticator
from proponent.gateway.auth.caller import Allowance, Caller, Scope, require_scope

__all__ = ["Allowance", "Authenticator", "Caller", "Scope", "require_scope"]
