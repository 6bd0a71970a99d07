"""Names of hosts, as they stand in ``Host`` and ``Origin`` headers, and which of them mean this very machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def host_of_header(value: str) -> str:
    """The name in a ``Host`` header, lower case, without port and brackets; "" if it is not one."""
    try:
        return (urlsplit(f"//{value.strip()}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def host_of_origin(origin: str) -> str:
    """The host of an ``Origin`` header such as ``https://viewer.example:3000``; "" for ``null`` and nonsense."""
    try:
        parts = urlsplit(origin.strip())
        return (parts.hostname or "").rstrip(".") if parts.scheme in ("http", "https") else ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """True for ``localhost``, names below it, 127.0.0.0/8 and ::1, which lead to the machine itself."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool(mapped.is_loopback if mapped is not None else address.is_loopback)


def is_wildcard(host: str) -> bool:
    """True for bind addresses that mean every interface."""
    return host in ("", "0.0.0.0", "::", "[::]")  # noqa: S104 - compared, not bound
