"""Addresses as people and URLs write them."""

from __future__ import annotations


def address_of(host: str, port: int) -> str:
    """``host:port``; an IPv6 address stands in brackets (RFC 3986, section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
