"""Real HTTP and HTTPS servers on loopback that answer whatever bytes a test wants, and fetchers that may reach them."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.remote import Fetcher

HOST = "images.example.com"

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Loopback:
    """A server; `requests` are the heads that it got, `sent` counts the bytes of bodies without an end."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[bytes] = []
        self.sent = 0


@asynccontextmanager
async def serving(answer: Answer | bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Loopback]:
    """A server that gives `answer` to each request, on 127.0.0.1 only."""
    loopback = Loopback()
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            loopback.requests.append(head)
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(head, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the fetcher has gone
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    loopback.port = server.sockets[0].getsockname()[1]
    try:
        yield loopback
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def ok(body: bytes, *headers: str) -> bytes:
    """A whole answer with status 200."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def fetcher_to(loopback: Loopback, *addresses: str, hosts: tuple[str, ...] = (HOST,), **options: Any) -> Fetcher:
    """A fetcher for which every host is at `addresses`, 127.0.0.1 unless they are given."""
    chosen: dict[str, Any] = {
        "timeout_s": 5.0,
        "resolve": lambda host, port: list(addresses) or ["127.0.0.1"],
        "is_allowed": lambda address: address.startswith("127."),
        "ports": frozenset({loopback.port}),
    }
    return Fetcher(hosts, **(chosen | options))


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for `name`, and a client's that trusts this certificate alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = folder / f"{name}.pem"
    public.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = folder / f"{name}.key"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(public, private)
    return server, ssl.create_default_context(cafile=str(public))
