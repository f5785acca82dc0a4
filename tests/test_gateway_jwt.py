"""JSON Web Tokens are accepted from one issuer, for this audience, in their time, by public keys alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from listening import Listening, run
from proponent.errors import PermissionDeniedError, SpecError, UnauthenticatedError
from proponent.gateway.auth import Authenticator, Scope
from proponent.gateway.auth import json_web_tokens as module
from proponent.gateway.auth.authenticator import authenticator_of
from proponent.gateway.settings import Settings
from proponent.results import DisclosureLevel
from proponent.v1 import explanation_pb2 as pb
from tokens import write_tokens

RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
KEYS: dict[str, Any] = {"RS256": RSA, "ES256": EC, "EdDSA": ED}
LEEWAY_S = 30.0


def public(key: Any, **more: str) -> dict[str, Any]:
    kinds: Any = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    kind = next((found for private, found in kinds.items() if isinstance(key, private)), OKPAlgorithm)
    return {**kind.to_jwk(key.public_key(), as_dict=True), **more}


@dataclass(frozen=True)
class FromNow:
    """A time so many seconds from when the token is made."""

    seconds: float


def token(key: Any = RSA, algorithm: str = "RS256", header: dict[str, Any] | None = None, **claims: Any) -> str:
    now = time.time()
    usual = {"iss": "https://issuer", "aud": "proponent", "sub": "alice", "exp": now + 60, "scope": "explain openid"}
    given = {name: now + value.seconds if isinstance(value, FromNow) else value for name, value in claims.items()}
    chosen = {name: value for name, value in {**usual, **given}.items() if value is not None}
    return jwt.encode(chosen, key, algorithm, headers=header)


def settings(path: Path, keys: list[dict[str, Any]], **more: Any) -> Settings:
    (path / "jwks.json").write_text(json.dumps({"keys": keys}))
    usual = {"jwt_keys": path / "jwks.json", "jwt_issuer": "https://issuer", "jwt_audience": "proponent"}
    return Settings(store=path, **usual, **more)


@pytest.fixture
def known(tmp_path: Path) -> Authenticator:
    keys = [public(RSA, kid="a"), public(EC, kid="b", alg="ES256"), public(ED), public(OTHER, kid="a")]
    return authenticator_of(settings(tmp_path, keys))


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_of_the_issuer_is_accepted(known: Authenticator, algorithm: str) -> None:
    caller = known.require(f"Bearer {token(KEYS[algorithm], algorithm)}", Scope.EXPLAIN)
    assert (caller.name, caller.scopes, caller.level) == ("jwt:alice", {Scope.EXPLAIN}, DisclosureLevel.RANKS)
    with pytest.raises(PermissionDeniedError, match="predict"):
        known.require(f"Bearer {token(KEYS[algorithm], algorithm)}", Scope.PREDICT)


ACCEPTED: dict[str, dict[str, Any]] = {
    "key id": {"header": {"kid": "a"}},
    "the second key of one id": {"key": OTHER, "header": {"kid": "a"}},
    "several audiences": {"aud": ["else", "proponent"]},
    "expired within the leeway": {"exp": FromNow(-LEEWAY_S / 2)},
    "issued by a clock that is ahead": {"iat": FromNow(LEEWAY_S / 2), "nbf": FromNow(LEEWAY_S / 2)},
    "scopes as a list": {"scope": ["explain"]},
    "never expires": {"exp": 10**400},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another key": ({"key": rsa.generate_private_key(65537, 2048)}, "Signature"),
    "another key id": ({"header": {"kid": "z"}}, "no key"),
    "expired": ({"exp": FromNow(-2 * LEEWAY_S)}, "expired"),
    "not yet": ({"nbf": FromNow(3 * LEEWAY_S)}, "not yet"),
    "from the future": ({"iat": FromNow(3 * LEEWAY_S)}, "not yet"),
    "another issuer": ({"iss": "https://elsewhere"}, "issuer"),
    "another audience": ({"aud": "elsewhere"}, "[Aa]udience"),
    **{f"without {claim}": ({claim: None}, claim) for claim in ("exp", "iss", "aud", "sub")},
    "a level that is none": ({"disclosure_level": "all"}, "level of labels"),
    "scopes that are none": ({"scope": 3}, "scope"),
    "RS512": ({"algorithm": "RS512"}, "no key"),
    "ES384": ({"algorithm": "ES384", "key": ec.generate_private_key(ec.SECP384R1())}, "no key"),
    "too long": ({"padding": "x" * 20_000}, "longer"),
}


@pytest.mark.parametrize("what", ACCEPTED)
def test_what_is_accepted(known: Authenticator, what: str) -> None:
    assert known.require(f"Bearer {token(**ACCEPTED[what])}", Scope.EXPLAIN).name == "jwt:alice"


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_and_why(known: Authenticator, what: str) -> None:
    arguments, why = REFUSED[what]
    made = token(**arguments)
    with pytest.raises(UnauthenticatedError, match=why) as caught:
        known.require(f"Bearer {made}", None)
    assert made.split(".")[2] not in caught.value.message
    assert (caught.value.reason == "TOKEN_EXPIRED") == (what == "expired")


def unsigned(header: dict[str, Any], claims: str, signature: bytes = b"") -> str:
    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return f"{encoded(json.dumps(header).encode())}.{claims}.{encoded(signature)}"


def test_a_public_key_is_no_shared_secret_and_no_signature_none(known: Authenticator) -> None:
    """The old attacks: alg none, and HMAC with the public key that everybody has."""
    claims = token().split(".")[1]
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = unsigned({"alg": "HS256", "typ": "JWT"}, claims).rpartition(".")[0]
    forged = unsigned({"alg": "HS256", "typ": "JWT"}, claims, hmac.digest(pem, head.encode(), hashlib.sha256))
    for made in (unsigned({"alg": "none"}, claims), unsigned({"alg": "None"}, claims), forged, "a.b.c", ".."):
        with pytest.raises(UnauthenticatedError):
            known.require(f"Bearer {made}", None)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([], "no key"),
        ([{"kty": "oct", "k": "c2VjcmV0"}], "public keys"),
        ([public(rsa.generate_private_key(65537, 1024))], "1024 bits"),
        ([public(ec.generate_private_key(ec.SECP384R1()))], "public keys"),
        ([public(RSA, alg="RS512")], "public keys"),
        ([RSAAlgorithm.to_jwk(RSA, as_dict=True)], "public keys"),
        ([{"kty": "RSA", "n": "AQAB"}], "cannot be read"),
        ([{}], "cannot be read"),
        (["text"], "cannot be read"),
    ],
)
def test_a_key_set_that_is_unsafe_or_broken_is_refused(keys: list[Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"jwks.json.*{why}") as caught:
        authenticator_of(settings(tmp_path, keys))
    assert caught.value.field == "jwt_keys"


def test_changed_keys_count_at_once_and_broken_ones_do_not(tmp_path: Path) -> None:
    chosen = settings(tmp_path, [public(RSA)], tokens_file=write_tokens(tmp_path / "tokens", {"plain": "predict"}))
    known, old, new = authenticator_of(chosen), token(), token(OTHER)
    files = known.files()
    assert known.require(f"Bearer {old}", None) and known.require("Bearer plain", None)
    (tmp_path / "jwks.json").write_text("{")
    write_tokens(tmp_path / "tokens", {"fresh": "predict"})
    for group in files:
        group.look()
    assert known.require(f"Bearer {old}", None) and known.require("Bearer fresh", None)
    settings(tmp_path, [public(OTHER)])
    for group in files:
        group.look()
    assert known.require(f"Bearer {new}", None)
    with pytest.raises(UnauthenticatedError):
        known.require(f"Bearer {old}", None)


def test_a_token_is_verified_once_and_no_longer_than_it_lasts(
    known: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = token()
    caller = known.require(f"Bearer {made}", None)
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("verified again"))
    assert known.require(f"Bearer {made}", None) is caller is known.confirm(caller)
    monkeypatch.undo()
    later = time.time() + 60 + 2 * LEEWAY_S
    monkeypatch.setattr(module.time, "time", lambda: later)
    with pytest.raises(UnauthenticatedError):
        known.confirm(caller)


def test_verified_tokens_are_bounded(known: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KNOWN", 3)
    for number in range(10):
        known.require(f"Bearer {token(sub=str(number))}", None)
    assert known._verifier is not None and len(known._verifier._verified) == 3


def test_both_transports_take_them(tmp_path: Path) -> None:
    chosen = settings(tmp_path, [public(ED)])
    made = token(ED, "EdDSA", scope="predict", disclosure_level="labels")

    async def ask(transports: Listening) -> None:
        async with grpc.aio.insecure_channel(transports.grpc_address) as channel, transports.client() as client:
            stub = transports.stub(channel)
            metadata = (("authorization", f"Bearer {made}"),)
            request = pb.PredictRequest(model="toy", encoded_image=b"png")
            assert (await stub.Predict(request, metadata=metadata)).prediction.class_id == 1
            described = await client.get("/v1/models/toy", headers=dict(metadata))
            assert described.json()["disclosure_level"] == "DISCLOSURE_LEVEL_LABELS"
            assert (await client.get("/v1/models/toy")).status_code == 401

    run(tmp_path, ask, authenticator=authenticator_of(chosen))
