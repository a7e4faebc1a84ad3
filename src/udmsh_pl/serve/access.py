"""Who may ask: names that the page has, pages that may send, and the token.

A page of a stranger, open in the same browser, is the enemy here: it may point a name of its own at
127.0.0.1 (DNS rebinding), and send forms and pictures' addresses to any address (request forgery).
"""

import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

from udmsh_pl.errors import InputError

LEAST_TOKEN = 16  # characters
ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
HOST = re.compile(r"(?:\[([^]]*)\]|([^:[]*))(?::[0-9]+)?")
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Access:
    """The rules of one server that listens on a host and port."""

    host: str
    port: int
    token: str = ""  # empty where only this machine can ask
    # further ones of the page, behind a proxy say; with the port where it is neither 80 nor 443
    names: Sequence[str] = ()
    root_path: str = ""  # before all addresses, such as /photos, behind a proxy
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.token:
            mend = "give --token (without a value: a new one), or leave --host out"
            raise InputError(f"--host {self.host} lets other machines in; {mend}")
        if self.token and (len(self.token) < LEAST_TOKEN or not self.token.isascii()):
            raise InputError(f"--token has to have {LEAST_TOKEN} ASCII characters or more")
        if self.root_path and not ROOT_PATH.fullmatch(self.root_path):
            mend = "give one such as /photos, which starts with a slash and ends without"
            raise InputError(f"--root-path {self.root_path} is no path; {mend}")

    @property
    def cookie(self) -> str:
        """Name of the session's cookie: browsers do not tell ports apart."""
        return f"udmsh-{self.port}"

    def knows_host(self, header: str) -> bool:
        """Whether a ``Host`` header is a name of ours. No stranger can make an address his name."""
        name = _without_port(header)
        if name in LOOPBACK_NAMES or name in {_without_port(known) for known in self.names}:
            return True
        if is_loopback(self.host):
            return False
        own = socket.gethostname().lower()
        return _address(name) is not None or name in {self.host.lower(), own, f"{own}.local"}

    def is_forged(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        """Whether another site has made the browser ask."""
        hosts = {headers.get("host", ""), *self.names}  # a proxy may change Host, not Origin
        own = {f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts}
        if headers.get("origin") not in {None, *own}:
            return True
        if headers.get("sec-fetch-site") in (None, "same-origin", "none"):
            return False
        opened = headers.get("sec-fetch-mode") == "navigate" and method in ("GET", "HEAD")
        return not (opened and path in ("", "/", "/api"))

    def is_token(self, given: str) -> bool:
        """Whether it is the token, in a time that does not depend on it."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    def is_known(self, headers: Mapping[str, str]) -> bool:
        """Whether the request carries the token or a session."""
        if not self.token:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")[:4096]).get(self.cookie)
        except CookieError:
            return False
        given = cookie.value if cookie is not None else ""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.session.encode())


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _without_port(header: str) -> str:
    """The name of a ``Host`` header, lower case: ``[::1]:8765`` is ``::1``."""
    found = HOST.fullmatch(header.strip().lower())
    return (found[1] or found[2] or "") if found else ""
