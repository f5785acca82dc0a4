"""Errors keep their meaning on every path: gRPC status, problem+json, and back from a worker."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2

from proponent import errors
from proponent.gateway.error_mapping import (
    as_proponent_error,
    from_item_error,
    grpc_code,
    problem,
    retry_after,
    rpc_status,
    to_item_error,
)
from proponent.v1.explanation_pb2 import ItemError

TABLE = [
    (errors.InvalidInputError, "INVALID_ARGUMENT", 400),
    (errors.NotFoundError, "NOT_FOUND", 404),
    (errors.PermissionDeniedError, "PERMISSION_DENIED", 403),
    (errors.UnauthenticatedError, "UNAUTHENTICATED", 401),
    (errors.MismatchError, "FAILED_PRECONDITION", 409),
    (errors.OverloadedError, "RESOURCE_EXHAUSTED", 429),
    (errors.UnavailableError, "UNAVAILABLE", 503),
    (errors.CorruptBundleError, "UNAVAILABLE", 503),
    (errors.DeadlineError, "DEADLINE_EXCEEDED", 504),
    (errors.InternalError, "INTERNAL", 500),
]


@pytest.mark.parametrize(("kind", "code", "status"), TABLE)
def test_each_kind_has_its_codes(kind: type[errors.ProponentError], code: str, status: int) -> None:
    error = kind("words", field="at")
    assert grpc_code(error) is grpc.StatusCode[code]
    assert error.http_status == status
    assert problem(error)["status"] == status and problem(error)["reason"] == kind.default_reason


@pytest.mark.parametrize("kind", [row[0] for row in TABLE if row[0] is not errors.UnauthenticatedError])
def test_an_item_error_comes_back_as_its_kind(kind: type[errors.ProponentError]) -> None:
    returned = from_item_error(to_item_error(kind("words", field="at")))
    assert type(returned) is kind
    assert (returned.message, returned.field, returned.reason) == ("words", "at", kind.default_reason)


def test_an_unknown_code_is_internal() -> None:
    assert isinstance(from_item_error(ItemError(code=99, message="?")), errors.InternalError)


def test_bad_input_names_its_field_in_the_details() -> None:
    status = rpc_status(errors.InvalidInputError("k is 0", field="top_k", reason="TOP_K_INVALID"))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info) and status.details[1].Unpack(bad)
    assert (info.reason, info.domain) == ("TOP_K_INVALID", "proponent")
    assert (bad.field_violations[0].field, bad.field_violations[0].description) == ("top_k", "k is 0")


def test_only_what_passes_is_worth_a_retry() -> None:
    retry = error_details_pb2.RetryInfo()
    assert rpc_status(errors.OverloadedError("full")).details[1].Unpack(retry) and retry.retry_delay.seconds == 1
    assert retry_after(errors.UnavailableError("starting")) is not None
    assert retry_after(errors.CorruptBundleError("damaged")) is None
    assert retry_after(errors.InvalidInputError("bad")) is None


def test_a_defect_discloses_nothing() -> None:
    assert "secret" not in as_proponent_error(ValueError("secret"), "id").message


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("catalog not found: /srv/models/toy/catalog.sqlite", "catalog not found: catalog.sqlite"),
        ("rows.faiss of /srv/store/toy/bundles/ab12 is damaged", "rows.faiss of ab12 is damaged"),
        ("[Errno 13] Permission denied: '/home/me/w.safetensors'", "[Errno 13] Permission denied: 'w.safetensors'"),
        ("list cannot be read: /srv/toy/forgotten.json: bad", "list cannot be read: forgotten.json: bad"),
        (
            "image of 3/4 pixels, expected http://a/b/c or toy/4",
            "image of 3/4 pixels, expected http://a/b/c or toy/4",
        ),
    ],
)
def test_callers_see_no_directories(message: str, shown: str) -> None:
    error = errors.CorruptBundleError(message, field="file")
    for text in (problem(error)["detail"], rpc_status(error).message, to_item_error(error).message):
        assert text == shown
    assert error.message == message
