"""Addresses of files elsewhere: their scheme, the folder they name, and how they are shown without secrets."""

from __future__ import annotations

WEB = ("https", "http")


def scheme_of(address: str) -> str:
    """Return the scheme of an address in lower case; empty for a path."""
    before, separator, _ = address.partition("://")
    return before.lower() if separator else ""


def names_folder(address: str) -> bool:
    """Return whether an address is that of a folder: its path ends in a slash."""
    return _without_query(address)[0].endswith("/")


def inside(address: str, name: str) -> str:
    """Return the address of a file in a folder; a query such as a signature is kept."""
    before, query = _without_query(address)
    return f"{before}{name}{query}"


def shown(address: object) -> str:
    """Return an address without what may be secret: user name, password, and the query, which can be a signature."""
    text = str(address)
    if scheme_of(text) not in WEB:
        return text
    scheme, _, rest = text.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def without_secrets(message: object, address: str) -> str:
    """Return a message without what may be secret in an address: its query, and a user's name and password."""
    before, _, query = address.partition("?")
    user, at, _ = before.partition("://")[2].partition("/")[0].rpartition("@")
    text = str(message)
    for secret in (query, user + at):
        text = text.replace(secret, "…") if secret else text
    return text


def _without_query(address: str) -> tuple[str, str]:
    """Return an address and its query with the question mark; a key in object storage may hold a question mark."""
    if scheme_of(address) not in WEB:
        return address, ""
    before, mark, query = address.partition("?")
    return before, mark + query
