"""The way to a server: its URL, the key, the proxy between; and what cannot be right about them."""

import ipaddress
import os
import re
import ssl
import unicodedata
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from preceptor.ground.errors import UserError

# What copying leaves around a key: line breaks, spaces and quotation marks, typographic ones as well.
_AROUND = " \t\r\n\"'\u201c\u201d\u2018\u2019\u00ab\u00bb\ufeff\u00a0"


def key_of_environment() -> str:
    """`OPENAI_API_KEY` without what copying left around it; empty if not set. Raises `UserError` if it is no key."""
    key = os.environ.get("OPENAI_API_KEY", "").strip(_AROUND)
    if bad := next((character for character in key if not "!" <= character <= "~"), None):
        what = unicodedata.name(bad, f"the control character {ord(bad)}")
        raise UserError(f"OPENAI_API_KEY holds {what}, which no key has.", "export OPENAI_API_KEY=...  # typed anew")
    return key


def checked_url(url: str) -> str:
    """A server's URL without a slash at its end. Raises `UserError` if it is none, or holds a password."""
    example = "--base-url http://localhost:8000/v1"
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, UnicodeError) as error:
        raise UserError(f"{url[:200]!r} is no URL of a server: {error}.", example) from error
    if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) > 65_535:
        raise UserError(f"{url[:200]!r} is no URL of a server.", example)
    if parsed.userinfo:
        what = "--base-url holds a password, which would be written into the files of the run."
        raise UserError(what, "export OPENAI_API_KEY=..., and a URL without a password")
    return url.rstrip("/")


def is_here(url: str) -> bool:
    """Whether a URL is of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def proxy_to(url: str) -> str | None:
    """The proxy that the environment names for a URL (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY); none to this
    machine, which no proxy can reach for us."""
    proxies = getproxies()
    proxy = proxies.get(urlsplit(url).scheme) or proxies.get("all")
    if not proxy or is_here(url) or proxy_bypass(urlsplit(url).netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def without_password(url: str) -> str:
    """A URL that may be shown."""
    return re.sub(r"//[^/@]*@", "//***@", url)


def tls_of(url: str) -> ssl.SSLContext | bool:
    """The certificates to trust: those of SSL_CERT_FILE if it is set. Raises `UserError` if they cannot be read."""
    if not url.startswith("https"):
        return False
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # which that of a wrong format is, too
        what = f"SSL_CERT_FILE={os.environ.get('SSL_CERT_FILE')} cannot be read as certificates: {error}."
        raise UserError(what, "unset SSL_CERT_FILE") from error
