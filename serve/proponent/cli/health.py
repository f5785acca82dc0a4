"""The command ``proponent health``: gRPC health for those who can only run a command, such as a container's probe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proponent.cli.exit_codes import UNFIT, exits
from proponent.cli.options import CHECK

if TYPE_CHECKING:
    import grpc

_Certificate = Annotated[
    Path | None,
    typer.Option(
        "--tls-certificate",
        envvar="PROPONENT_TLS_CERTIFICATE",
        help="The server's own PEM chain, which alone is trusted; left out: no TLS.",
    ),
]
_ClientCertificate = Annotated[
    Path | None, typer.Option(help="PEM certificate of this client, where the server asks for one.")
]
_ClientKey = Annotated[Path | None, typer.Option(help="Its PEM private key.")]


def register(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command(rich_help_panel=CHECK, epilog=exits(UNFIT))(health)


def health(
    address: Annotated[str, typer.Argument(help="Where gRPC listens.", show_default=True)] = "127.0.0.1:8500",
    service: Annotated[
        str, typer.Option(help="Whose health: the server's, or proponent.v1.ExplanationService/MODEL.")
    ] = "",
    tls_certificate: _Certificate = None,
    client_certificate: _ClientCertificate = None,
    client_key: _ClientKey = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 3.0,
) -> None:
    """Ask a running gateway by gRPC whether it is ready: a probe for containers, which speaks TLS.

    Example: `proponent health 127.0.0.1:8500 --tls-certificate server.pem`
    """
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with _channel(address, tls_certificate, client_certificate, client_key) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
        except grpc.RpcError as error:
            typer.echo(f"{address}: {error.code().name}: {error.details()}", err=True)
            raise typer.Exit(UNFIT) from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    typer.echo(status)
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(UNFIT)


def _channel(address: str, certificate: Path | None, client: Path | None, client_key: Path | None) -> grpc.Channel:
    import grpc

    if certificate is None:
        return grpc.insecure_channel(address)
    from proponent.client.connection import Tls

    credentials = Tls(authorities=certificate, certificate=client, key=client_key).credentials()
    # Asked at an address of its own, a server need not be named by it: that it has the certificate's key is enough.
    named = [("grpc.ssl_target_name_override", _name(certificate))]
    return grpc.secure_channel(address, credentials, options=named)


def _name(certificate: Path) -> str:
    """A name that a certificate is valid for."""
    from cryptography import x509

    found = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return next((str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)), "")
