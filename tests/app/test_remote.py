"""Pictures by URL: fetched from allowed hosts at public addresses, and nothing else is ever reached."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from pathlib import Path

import pytest

from app.errors import TooManyBytesInFlight, UrlNotAllowed, UrlUnreachable
from app.remote import Allowance, Fetcher, is_public
from app.settings import Settings
from tests.app.conftest import encoded, picture
from tests.app.loopback import HOST, certificate, fetcher_to, ok, serving

pytestmark = pytest.mark.anyio

PNG = encoded(picture(0))


def allowed(left_bytes: int = 1_000_000) -> Allowance:
    return Allowance(left_bytes)


async def test_the_bytes_behind_a_url_and_nothing_of_ours_in_the_request() -> None:
    async with serving(ok(PNG)) as loopback:
        allowance = allowed()
        url = f"http://{HOST}:{loopback.port}/a%2Fb/c.png?key=a%20b&x=1#part"
        assert await fetcher_to(loopback).fetch(url, "image", allowance) == PNG
        assert allowance.left_bytes == 1_000_000 - len(PNG)
    (head,) = loopback.requests
    line, *headers = head.decode().strip().split("\r\n")
    assert line == "GET /a%2Fb/c.png?key=a%20b&x=1 HTTP/1.1"
    assert dict(header.lower().split(": ") for header in headers) == {
        "host": f"{HOST}:{loopback.port}",
        "accept": "image/*",
        "accept-encoding": "identity",
        "connection": "close",
    }


async def test_an_answer_in_chunks() -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (PNG[:100], PNG[100:])) + b"0\r\n\r\n"
    async with serving(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) as loopback:
        url = f"http://{HOST}:{loopback.port}/"
        assert await fetcher_to(loopback).fetch(url, "image", allowed(len(PNG))) == PNG


@pytest.mark.parametrize("host", ["IMAGES.Example.COM", "bücher.example", "xn--bcher-kva.example"])
async def test_a_host_is_compared_as_names_in_dns_are(host: str) -> None:
    async with serving(ok(PNG)) as loopback:
        fetcher = fetcher_to(loopback, hosts=(HOST, "xn--bcher-kva.example"))
        assert await fetcher.fetch(f"HTTP://{host}:{loopback.port}/", "image", allowed()) == PNG


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example.com/",
        f"http://{HOST}.evil.example/",
        f"http://evil-{HOST}/",
        f"http://a.{HOST}/",
        f"http://{HOST}./",
        f"http://{HOST}@evil.example/",
        f"http://evil.example@{HOST}/",
        f"http://user:secret@{HOST}/",
        f"http://evil.example\\@{HOST}/",
        f"http://{HOST}\\.evil.example/",
        f"http://evil.example#@{HOST}/",
        f"http://evil.example?@{HOST}/",
        f"http://{HOST}:22/",
        f"https://{HOST}:80/",
        f"http://{HOST}:0/",
        f"http://{HOST}:99999/",
        f"http://{HOST}:x/",
        f"http://{HOST}/a\r\nX-Injected: 1",
        f"http://{HOST}/a\tb",
        f"http://{HOST}\x00.evil.example/",
        f"http://{HOST}/" + "a" * 4096,
        f"http://{HOST.replace('.', '%2e')}/",
        "http:///path",
        "http://",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://localhost/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[",
        f"http://{'a' * 300}/",
        "http://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54/",
        "ftp://" + HOST,
        "file:///etc/passwd",
    ],
)
async def test_a_url_that_is_not_allowed_is_not_even_resolved(url: str) -> None:
    resolved: list[str] = []
    fetcher = Fetcher((HOST,), 5, resolve=lambda host, port: resolved.append(host) or ["127.0.0.1"])
    with pytest.raises(UrlNotAllowed) as caught:
        await fetcher.fetch(url, "prompt_image[1]", allowed())
    assert caught.value.extra["field"] == "prompt_image[1]"
    assert "secret" not in caught.value.detail
    assert resolved == []


async def test_without_hosts_every_url_is_refused() -> None:
    settings = Settings()
    with pytest.raises(UrlNotAllowed, match="switched off"):
        await Fetcher(settings.url_hosts, settings.url_timeout_s).fetch(f"http://{HOST}/", "image", allowed())


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["127.0.0.1", "93.184.216.34"]],
)
async def test_a_host_with_any_address_that_is_not_public_is_not_connected_to(addresses: list[str]) -> None:
    async with serving(ok(PNG)) as loopback:
        fetcher = fetcher_to(loopback, *addresses, is_allowed=is_public)
        with pytest.raises(UrlNotAllowed, match="not public") as caught:
            await fetcher.fetch(f"http://{HOST}:{loopback.port}/", "image", allowed())
    assert loopback.requests == []
    assert not any(address in caught.value.detail for address in addresses)


async def test_the_service_s_own_resolver_and_check_refuse_loopback_by_name() -> None:
    async with serving(ok(PNG)) as loopback:
        fetcher = Fetcher(("localhost",), 5, ports=frozenset({loopback.port}))
        with pytest.raises(UrlNotAllowed, match="not public"):
            await fetcher.fetch(f"http://localhost:{loopback.port}/", "image", allowed())
    assert loopback.requests == []


async def test_a_name_that_changes_after_the_check_gains_nothing() -> None:
    answers = [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"]]
    asked: list[list[str]] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(answers[len(asked)])
        return asked[-1]

    async with serving(ok(PNG)) as loopback:  # at 127.0.0.1 only
        url = f"http://{HOST}:{loopback.port}/"
        fetcher = fetcher_to(loopback, resolve=rebinding, is_allowed=lambda address: address == "127.0.0.1")
        assert await fetcher.fetch(url, "image", allowed()) == PNG
        assert len(asked) == 1
        with pytest.raises(UrlNotAllowed):
            await fetcher.fetch(url, "image", allowed())
    assert len(loopback.requests) == 1


async def test_an_address_that_refuses_gives_way_to_the_next() -> None:
    async with serving(ok(PNG)) as loopback:
        fetcher = fetcher_to(loopback, "127.0.0.2", "127.0.0.1")
        assert await fetcher.fetch(f"http://{HOST}:{loopback.port}/", "image", allowed()) == PNG


async def test_a_host_that_nobody_can_connect_to() -> None:
    async with serving(ok(PNG)) as loopback:
        with pytest.raises(UrlUnreachable, match="cannot be connected to") as caught:
            await fetcher_to(loopback, "127.0.0.2").fetch(f"http://{HOST}:{loopback.port}/", "image", allowed())
    assert "127.0" not in caught.value.detail


async def test_a_host_without_an_address() -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror("no such name at 10.1.2.3")

    with pytest.raises(UrlUnreachable, match="no address") as caught:
        await Fetcher((HOST,), 5, resolve=unknown).fetch(f"http://{HOST}/", "image", allowed())
    assert "10.1.2.3" not in caught.value.detail


async def test_redirects_are_not_followed() -> None:
    async with serving(ok(PNG)) as inner:
        location = f"http://{HOST}:{inner.port}/private"
        moved = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()
        async with serving(moved) as outer:
            fetcher = fetcher_to(outer, ports=frozenset({outer.port, inner.port}))
            with pytest.raises(UrlUnreachable, match="302; wanted is 200; redirects") as caught:
                await fetcher.fetch(f"http://{HOST}:{outer.port}/", "image", allowed())
    assert inner.requests == []
    assert "private" not in caught.value.detail


@pytest.mark.parametrize("status", [201, 204, 206, 304, 401, 404, 500])
async def test_another_status_is_named_but_not_what_came_with_it(status: int) -> None:
    async with serving(b"HTTP/1.1 %d Internal-Name\r\nContent-Length: 6\r\n\r\nsecret" % status) as loopback:
        with pytest.raises(UrlUnreachable, match=rf"{HOST} answered with status {status};") as caught:
            await fetcher_to(loopback).fetch(f"http://{HOST}:{loopback.port}/", "image", allowed())
    assert "secret" not in caught.value.detail
    assert "Internal-Name" not in caught.value.detail


async def never(head: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def drop_by_drop(head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(100_000):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def informing_for_ever(head: bytes, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("answer", [never, drop_by_drop, informing_for_ever])
async def test_one_limit_of_time_however_the_host_delays(answer: object) -> None:
    async with serving(answer) as loopback:  # type: ignore[arg-type]
        start = time.monotonic()
        with pytest.raises(UrlUnreachable, match=r"within 0\.3 s"):
            await fetcher_to(loopback, timeout_s=0.3).fetch(f"http://{HOST}:{loopback.port}/", "image", allowed())
        assert 0.25 < time.monotonic() - start < 20


async def test_a_name_server_that_hangs_counts_as_time_and_blocks_nobody() -> None:
    released = threading.Event()

    def hanging(host: str, port: int) -> list[str]:
        released.wait(30)
        return ["127.0.0.1"]

    fetcher = Fetcher((HOST,), 0.3, resolve=hanging)
    try:
        with pytest.raises(UrlUnreachable, match=r"within 0\.3 s"):
            await fetcher.fetch(f"http://{HOST}/", "image", allowed())
    finally:
        released.set()
        fetcher.close()


async def test_an_answer_without_end_is_left_at_the_limit_of_bytes() -> None:
    async def endless(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            loopback.sent += 65536

    async with serving(endless) as loopback:
        with pytest.raises(UrlUnreachable, match="too many bytes; allowed are 1000000") as caught:
            await fetcher_to(loopback).fetch(f"http://{HOST}:{loopback.port}/", "image", allowed())
        assert caught.value.extra["limit"] == 1_000_000
        # Beyond the limit there is only what the two sockets hold.
        assert loopback.sent < 20_000_000


async def test_a_length_beyond_the_limit_is_believed_at_once() -> None:
    async def declaring(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(60)

    async with serving(declaring) as loopback:
        with pytest.raises(UrlUnreachable, match="too many bytes"):
            await fetcher_to(loopback).fetch(f"http://{HOST}:{loopback.port}/", "image", allowed())


async def test_a_picture_of_exactly_the_limit_and_one_byte_more() -> None:
    async with serving(ok(PNG)) as loopback:
        url = f"http://{HOST}:{loopback.port}/"
        assert await fetcher_to(loopback).fetch(url, "image", allowed(len(PNG))) == PNG
        with pytest.raises(UrlUnreachable, match="too many bytes"):
            await fetcher_to(loopback).fetch(url, "image", allowed(len(PNG) - 1))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nshort",
        b"SSH-2.0-OpenSSH_9.7\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000,
        b"",
    ],
)
async def test_an_answer_that_breaks_off_or_is_no_http(answer: bytes) -> None:
    async with serving(answer) as loopback:
        with pytest.raises(UrlUnreachable, match="broke off"):
            await fetcher_to(loopback).fetch(f"http://{HOST}:{loopback.port}/", "image", allowed())


async def test_bytes_beyond_the_declared_length_are_not_read() -> None:
    async with serving(ok(PNG) + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad") as loopback:
        assert await fetcher_to(loopback).fetch(f"http://{HOST}:{loopback.port}/", "image", allowed()) == PNG


async def test_a_compressed_answer_is_refused() -> None:
    async with serving(ok(gzip.compress(b"0" * 10_000_000), "Content-Encoding: gzip")) as loopback:
        with pytest.raises(UrlUnreachable, match="compressed"):
            await fetcher_to(loopback).fetch(f"http://{HOST}:{loopback.port}/", "image", allowed())


async def test_proxies_and_passwords_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {HOST} login user password secret")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(ok(PNG)) as loopback:
        assert await fetcher_to(loopback).fetch(f"http://{HOST}:{loopback.port}/", "image", allowed()) == PNG
    assert b"authorization" not in loopback.requests[0].lower()


async def test_https_asks_the_checked_address_for_the_host_s_own_certificate(tmp_path: Path) -> None:
    server_tls, client_tls = certificate(tmp_path, HOST)
    asked: list[str | None] = []
    server_tls.sni_callback = lambda connection, name, context: asked.append(name)
    async with serving(ok(PNG), server_tls) as loopback:
        fetcher = fetcher_to(loopback, tls=client_tls)
        assert await fetcher.fetch(f"https://{HOST}:{loopback.port}/", "image", allowed()) == PNG
    assert asked == [HOST]


async def test_https_refuses_the_certificate_of_another_name(tmp_path: Path) -> None:
    server_tls, client_tls = certificate(tmp_path, "other.example.com")
    async with serving(ok(PNG), server_tls) as loopback:
        with pytest.raises(UrlUnreachable, match="cannot be connected to"):
            await fetcher_to(loopback, tls=client_tls).fetch(f"https://{HOST}:{loopback.port}/", "image", allowed())
    assert loopback.requests == []


async def test_https_refuses_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    server_tls, _ = certificate(tmp_path, HOST)
    async with serving(ok(PNG), server_tls) as loopback:
        with pytest.raises(UrlUnreachable, match="cannot be connected to"):
            await fetcher_to(loopback).fetch(f"https://{HOST}:{loopback.port}/", "image", allowed())
    assert loopback.requests == []


async def test_what_is_fetched_is_told_and_may_be_refused() -> None:
    told: list[int] = []

    def hold(size: int) -> None:
        told.append(size)
        if sum(told) > len(PNG):
            raise TooManyBytesInFlight("no room")

    async with serving(ok(PNG)) as loopback:
        url = f"http://{HOST}:{loopback.port}/"
        allowance = Allowance(1_000_000, hold)
        await fetcher_to(loopback).fetch(url, "image", allowance)
        assert sum(told) == len(PNG)
        with pytest.raises(TooManyBytesInFlight):
            await fetcher_to(loopback).fetch(url, "image", allowance)
