"""JSON Web Tokens (RFC 7519) of one issuer, checked with public keys from a local file: nothing is fetched.

Claims: ``sub`` names the caller, ``scope`` holds its scopes separated by spaces (RFC 8693) or as a list, and
``disclosure_level`` may name its level. ``exp``, ``iss``, ``aud`` and ``sub`` are required; ``nbf`` and ``iat`` count
where they are there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jwt

from proponent.errors import SpecError, UnauthenticatedError
from proponent.gateway.auth.caller import Caller, Scope
from proponent.gateway.auth.token_file import parse_level

# Public keys alone: with a shared secret whoever can check tokens can make them.
_ALGORITHMS = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
_WEAKEST_RSA = 2048
_LONGEST_TOKEN = 16 << 10
_LONGEST_NAME = 256
# Tokens that are verified once and looked up until they expire; the oldest makes room.
_MOST_KNOWN = 10_000
_NEVER = 1 << 53
_REQUIRED = ["exp", "iss", "aud", "sub"]


@dataclass(frozen=True)
class _Key:
    key_id: str | None
    algorithm: str
    public: Any


class TokenVerifier:
    """Turns tokens into callers.

    Args:
        keys: JSON Web Key Set (RFC 7517) with RSA (2048 bits or more), P-256 or Ed25519 public keys.
        issuer: What ``iss`` must be.
        audience: What ``aud`` must be or hold.
        leeway_s: How far the issuer's clock may be off.
        default: Level and allowance of callers whose tokens do not say it.

    Raises:
        SpecError: The file cannot be used.
    """

    def __init__(self, keys: Path, issuer: str, audience: str, leeway_s: float, default: Caller) -> None:
        self.path = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s
        self._default = default
        self.load()

    def load(self) -> None:
        """Reads the keys again and forgets what they accepted; raises SpecError, and keeps those before."""
        self._keys = list(_read_keys(self.path))
        self._verified: dict[bytes, tuple[Caller, float]] = {}

    def known(self, digest: bytes) -> Caller | None:
        """Whom a token speaks for that was verified before and has not expired since."""
        found = self._verified.get(digest)
        return found[0] if found is not None and time.time() < found[1] else None

    def verify(self, token: str, digest: bytes) -> Caller:
        """Whom a token speaks for; it is known by its digest from now on.

        Raises:
            UnauthenticatedError: It is not accepted; says why.
        """
        if len(token) > _LONGEST_TOKEN:
            raise _refused(f"it is longer than {_LONGEST_TOKEN} characters")
        try:
            claims = self._claims(token)
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("token has expired", field="authorization", reason="TOKEN_EXPIRED") from None
        except jwt.PyJWTError as error:
            raise _refused(str(error)) from None
        caller = replace(self._caller(claims), credential=digest)
        if len(self._verified) >= _MOST_KNOWN:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = caller, min(int(claims["exp"]), _NEVER) + self._leeway_s
        return caller

    def _claims(self, token: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        candidates = [key for key in self._keys if key.algorithm == header.get("alg") and _fits(key, header)]
        for last, key in enumerate(candidates, start=1 - len(candidates)):
            try:
                return jwt.decode(
                    token,
                    key.public,
                    algorithms=[key.algorithm],
                    issuer=self._issuer,
                    audience=self._audience,
                    leeway=self._leeway_s,
                    options={"require": _REQUIRED},
                )
            except jwt.InvalidSignatureError:
                if last == 0:
                    raise
        raise _refused("no key of the key set fits its header")

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        name, scope, level = claims["sub"], claims.get("scope", ""), claims.get("disclosure_level")
        words = scope.split() if isinstance(scope, str) else scope
        if not name or len(name) > _LONGEST_NAME:
            raise _refused(f"claim 'sub' is empty or longer than {_LONGEST_NAME} characters")
        if not isinstance(words, list):
            raise _refused("claim 'scope' is neither a text nor a list")
        try:
            told = self._default.level if level is None else parse_level(str(level))
        except ValueError as error:
            raise _refused(f"claim 'disclosure_level': {error}") from None
        known = frozenset(each for each in Scope if each.value in words)
        return replace(self._default, name=f"jwt:{name}", scopes=known, level=told)


def _read_keys(path: Path) -> Iterator[_Key]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["keys"]
        keys = [_key(path, each) for each in found if each.get("use", "sig") == "sig"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise _bad(path, f"it cannot be read as a JSON Web Key Set ({error})") from None
    if not keys:
        raise _bad(path, "it holds no key")
    yield from keys


def _key(path: Path, jwk: dict[str, Any]) -> _Key:
    algorithm = _ALGORITHMS.get((jwk["kty"], None if jwk["kty"] == "RSA" else jwk.get("crv")))
    if algorithm is None or jwk.get("alg", algorithm) != algorithm or "d" in jwk:
        raise _bad(path, "expected public keys of RSA, P-256 or Ed25519 alone")
    public: Any = jwt.PyJWK(jwk, algorithm).key
    if algorithm == "RS256" and public.key_size < _WEAKEST_RSA:
        raise _bad(path, f"an RSA key has {public.key_size} bits, expected {_WEAKEST_RSA} or more")
    return _Key(jwk.get("kid"), algorithm, public)


def _fits(key: _Key, header: Mapping[str, Any]) -> bool:
    return "kid" not in header or key.key_id in (None, header["kid"])


def _bad(path: Path, problem: str) -> SpecError:
    return SpecError(f"key set {path} cannot be used: {problem}", field="jwt_keys")


def _refused(why: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"token is not accepted: {why}", field="authorization")
