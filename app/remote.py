"""Pictures by URL, without lending the service's place in its network to whoever sends the URL.

A server that fetches what strangers name is a way into the network behind it (server-side request forgery). So nothing
is fetched unless the operator has named the host; the host is resolved once, every one of its addresses must be
public, and the connection goes to the very address that was checked, so that a name that changes in between gains
nothing. No redirects, no proxies, no other ports, no credentials, no compression, one limit of time and one of bytes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import httpx

from app.errors import UrlNotAllowed, UrlUnreachable

MOST_URL_CHARACTERS: Final = 4096

_MOST_ADDRESSES: Final = 4
_RESOLVERS: Final = 4
_URL: Final = re.compile(r"\s*https?://", re.IGNORECASE)

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Beyond what `ipaddress` knows in every Python from 3.11 on.
_REFUSED_V4: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments; clouds keep metadata here
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # Azure's own agent, reachable from every machine there, in a range that looks public
    )
)
_REFUSED_V6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them, which wraps IPv4
        "2002::/16",  # 6to4, which wraps IPv4
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
_UNICAST_V6: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")

Resolve = Callable[[str, int], Sequence[str]]
"""(host, port) -> its addresses as text; may block; raises OSError when there is none."""

logger = logging.getLogger(__name__)


def is_url(text: str) -> bool:
    """Whether a picture's text is meant as a URL."""
    return _URL.match(text) is not None


def is_public(address: str) -> bool:
    """Whether a machine anywhere in the internet could have this address, and only one at a time.

    IPv4 inside IPv6 is refused, but for NAT64: networks without IPv4 reach public IPv4 hosts that way, and the inner
    address is checked.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)))
        is_unicast = parsed in _UNICAST_V6 and parsed.scope_id is None
        return is_unicast and parsed.is_global and not any(parsed in network for network in _REFUSED_V6)
    is_special = parsed.is_multicast or parsed.is_reserved or any(parsed in network for network in _REFUSED_V4)
    return parsed.is_global and not is_special


class Allowance:
    """The bytes that the fetched pictures of one request may still have, together.

    Args:
        left_bytes: how many.
        hold: told of every piece before it is kept; may refuse it by raising.
    """

    def __init__(self, left_bytes: int, hold: Callable[[int], None] | None = None) -> None:
        self.left_bytes = left_bytes
        self._limit_bytes = left_bytes
        self._hold = hold

    def take(self, size: int, host: str, field: str) -> None:
        """Count one piece of `size` bytes.

        Raises:
            UrlUnreachable: they are too many.
        """
        if size > self.left_bytes:
            raise UrlUnreachable(
                f"{host} gives too many bytes; allowed are {self._limit_bytes} for all that this request fetches",
                field=field,
                limit=self._limit_bytes,
            )
        self.left_bytes -= size
        if self._hold is not None:
            self._hold(size)


class Fetcher:
    """Fetches pictures from the hosts that are allowed.

    Args:
        hosts: their names, lower-case, as in DNS; empty refuses every URL.
        timeout_s: seconds for one picture, from resolving its host to its last byte.
        resolve: how a host's addresses are found. This and the next three are for tests against loopback.
        is_allowed: which addresses may be connected to; all of a host's must be.
        ports: allowed beside the scheme's own.
        tls: verifies https hosts; None trusts the usual authorities.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        timeout_s: float,
        *,
        resolve: Resolve | None = None,
        is_allowed: Callable[[str], bool] = is_public,
        ports: frozenset[int] = frozenset(),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = frozenset(hosts)
        self._timeout_s = timeout_s
        self._resolve = resolve or addresses_of
        self._is_allowed = is_allowed
        self._ports = ports
        # Reading the authorities takes a while, so once, and not at all where no URL will ever be fetched.
        self._tls = tls or (httpx.create_ssl_context() if self._hosts else None)
        # Of its own: a name server that hangs must not take the threads that decode.
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolve")

    def close(self) -> None:
        """Fetch nothing more."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, url: str, field: str, allowance: Allowance) -> bytes:
        """The bytes behind `url`.

        Args:
            url: http or https.
            field: whose picture it is, for the problem.
            allowance: counts the bytes while they come.

        Raises:
            UrlNotAllowed: the URL or its host is not allowed, or one of the host's addresses is not public.
            UrlUnreachable: there is no such host, no picture, not in time, or too many bytes.
        """
        target = self._check(url, field)
        host = target.raw_host.decode("ascii")
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses = await self._addresses(target, host, field)
                return await self._read(target, addresses, field, allowance)
        except TimeoutError:
            why = f"{host} has not given the picture within {self._timeout_s:g} s"
        except httpx.ConnectError as error:
            logger.info("fetching a picture from %s failed: %r", host, error)
            why = f"{host} cannot be connected to"
        except (httpx.HTTPError, OSError) as error:
            logger.info("fetching a picture from %s failed: %r", host, error)
            why = f"{host} broke off its answer, or does not answer as HTTP wants it"
        # What went wrong beneath has addresses in its words; they stay in the log.
        raise UrlUnreachable(why, field=field)

    def _check(self, url: str, field: str) -> httpx.URL:
        """The one reading of `url`; what is connected to is taken from it and from nothing else."""
        if not self._hosts:
            raise UrlNotAllowed("pictures by URL are switched off here; send the picture itself", field=field)
        url = url.strip()
        if len(url) > MOST_URL_CHARACTERS or not url.isprintable() or "\\" in url:
            raise UrlNotAllowed(
                f"got a URL of {len(url)} characters; allowed are {MOST_URL_CHARACTERS}, printable, no backslash",
                field=field,
            )
        try:
            target = httpx.URL(url)
            host = target.raw_host.decode("ascii")
        except (httpx.InvalidURL, UnicodeError):
            raise UrlNotAllowed("got a URL that cannot be read", field=field) from None
        if target.scheme not in {"http", "https"}:
            raise UrlNotAllowed(f"got scheme {target.scheme[:20]!r}; allowed are http and https", field=field)
        if target.userinfo:
            raise UrlNotAllowed("got a URL with a user name; allowed are URLs without", field=field)
        if host not in self._hosts:
            raise UrlNotAllowed(f"got host {host[:80]!r}; allowed are those in SEGGPT_URL_HOSTS", field=field)
        if target.port is not None and target.port not in self._ports:
            raise UrlNotAllowed(f"got port {target.port}; allowed is the scheme's own", field=field)
        return target

    async def _addresses(self, target: httpx.URL, host: str, field: str) -> Sequence[str]:
        port = target.port or {"http": 80, "https": 443}[target.scheme]
        loop = asyncio.get_running_loop()
        try:
            addresses = await loop.run_in_executor(self._resolvers, self._resolve, host, port)
        except (OSError, UnicodeError) as error:
            logger.info("resolving %s failed: %r", host, error)
            addresses = ()
        if not addresses:
            raise UrlUnreachable(f"{host} has no address", field=field)
        refused = [address for address in addresses if not self._is_allowed(address)]
        if refused:
            # One is enough: an honest host has no reason to mix them, and a liar has.
            logger.warning("%s is allowed by its name and refused: it resolves to %s", host, ", ".join(refused))
            raise UrlNotAllowed(f"{host} has an address that is not public", field=field)
        return addresses[:_MOST_ADDRESSES]

    async def _read(self, target: httpx.URL, addresses: Sequence[str], field: str, allowance: Allowance) -> bytes:
        host = target.raw_host.decode("ascii")
        named = target.netloc.decode("ascii")
        failure: httpx.TransportError | None = None
        for address in addresses:
            request = httpx.Request(
                "GET",
                target.copy_with(host=address),
                headers={"Host": named, "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"},
                # The certificate must be the host's, whatever address it is asked at.
                extensions={"sni_hostname": host, "timeout": {"connect": self._timeout_s / len(addresses)}},
            )
            # One for each picture: a kept connection to an address would be taken for another host at that address.
            # It is the bare transport, which knows no redirects, cookies, credentials or proxies.
            async with httpx.AsyncHTTPTransport(verify=self._tls or True, trust_env=False) as transport:
                try:
                    response = await transport.handle_async_request(request)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    failure = error
                    continue
                try:
                    return await _content(response, host, field, allowance)
                finally:
                    await response.aclose()
        assert failure is not None
        if isinstance(failure, httpx.ConnectTimeout):
            raise TimeoutError
        raise failure


async def _content(response: httpx.Response, host: str, field: str, allowance: Allowance) -> bytes:
    if response.status_code != httpx.codes.OK:
        hint = "; redirects are not followed" if response.is_redirect else ""
        raise UrlUnreachable(f"{host} answered with status {response.status_code}; wanted is 200{hint}", field=field)
    # Asked for as it is: a few compressed bytes can become any number.
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UrlUnreachable(f"{host} gives a compressed answer, which was not asked for", field=field)
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > allowance.left_bytes:
        allowance.take(allowance.left_bytes + 1, host, field)
    pieces = []
    async for piece in response.aiter_raw():
        allowance.take(len(piece), host, field)
        pieces.append(piece)
    return b"".join(pieces)


def addresses_of(host: str, port: int) -> list[str]:
    """The addresses of `host`, as the system resolves it, each once, best first.

    Raises:
        OSError: it has none, or no name server answers.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
