"""Ask an OPTIMADE server for structures, by the standard library. The only part of the program that uses a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from crystalpredict._version import __version__
from crystalpredict.errors import StructureError
from crystalpredict.io.entries import Inline
from crystalpredict.io.json_text import json_reason, parsed_json

PREFIX = "optimade:"
FIELDS = (
    "lattice_vectors", "cartesian_site_positions", "species", "species_at_sites", "structure_features",
    "dimension_types", "assemblies",
)  # fmt: skip
PAGE_STRUCTURES = 100
MAX_STRUCTURES = 10_000
MAX_ANSWER_BYTES = 2**26
TIMEOUT_SECONDS = 30.0
# no files, no FTP: a server may redirect to other pages of the web only
HANDLERS = (
    ProxyHandler, HTTPHandler, HTTPSHandler, HTTPRedirectHandler, HTTPErrorProcessor, HTTPDefaultErrorHandler,
)  # fmt: skip


def structures_of_query(name: str) -> Iterator[Inline]:
    """Yield the structures that match an input `optimade:BASE_URL?FILTER`, named `optimade:BASE_URL#id`.

    The last one has an error if the server cannot be reached, refuses the filter, or more than MAX_STRUCTURES match.
    """
    base, _, wanted = name.removeprefix(PREFIX).partition("?")
    wanted = wanted.removeprefix("filter=").strip()
    where = PREFIX + base
    try:
        if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).hostname or not wanted:
            raise StructureError("give an address and a filter: 'optimade:https://HOST/optimade?elements HAS \"Ga\"'")
        for number, item in enumerate(_items(base, wanted)):
            if number == MAX_STRUCTURES:
                raise StructureError(f"more than {MAX_STRUCTURES:,} structures match: narrow the filter")
            label = item.get("id")
            yield Inline(
                f"{where}#{str(label)[:200]}" if label else where, json.dumps(item), index=0 if label else number
            )
    except ValueError:  # of urlsplit
        yield Inline(where, error="not an address: check it")
    except StructureError as error:
        yield Inline(where, error=str(error))


def _items(base: str, wanted: str) -> Iterator[dict[str, Any]]:
    """Yield the entries on all pages of the answer; StructureError if there are none."""
    root = base.rstrip("/")
    root = root if root.rpartition("/")[2] in ("v0", "v1", "v2") else f"{root}/v1"
    query = {"filter": wanted, "page_limit": PAGE_STRUCTURES, "response_fields": ",".join(FIELDS)}
    page: str | None = f"{root}/structures?{urlencode(query)}"
    seen: set[str] = set()
    empty = True
    while page:
        seen.add(page)
        answer = _answer(page)
        data = answer.get("data")
        if not isinstance(data, list):
            raise StructureError("the server's answer has no list `data`: check that the address is one of OPTIMADE")
        for item in data:
            empty = False
            yield item if isinstance(item, dict) else {}
        links = answer.get("links")
        following = links.get("next") if isinstance(links, dict) else None
        page = following.get("href") if isinstance(following, dict) else following
        if isinstance(page, str):  # some servers leave spaces in it
            page = quote(page, safe="%/:=&?~#+!$,;'@()*[]")
        if page and (not isinstance(page, str) or urlsplit(page)[:2] != urlsplit(base)[:2] or page in seen):
            raise StructureError("the server's link to the next page does not lead on: the structures so far are whole")
    if empty:
        raise StructureError("no structure matches the filter")


def _answer(address: str) -> dict[str, Any]:
    """Return the JSON object at an address; StructureError if there is none."""
    opener = OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    host = urlsplit(address).netloc[:80]
    headers = {"User-Agent": f"crystalpredict/{__version__}", "Accept": "application/json"}
    try:
        with opener.open(Request(address, headers=headers), timeout=TIMEOUT_SECONDS) as response:
            content = response.read(MAX_ANSWER_BYTES + 1)
    except HTTPError as error:
        raise StructureError(
            f"{host} answers {error.code} ({_detail(error) or error.reason}): check the filter"
        ) from None
    except (URLError, OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StructureError(f"cannot reach {host} ({reason}): an input optimade: needs the network") from None
    if len(content) > MAX_ANSWER_BYTES:
        raise StructureError(f"{host} answers with more than {MAX_ANSWER_BYTES >> 20} MiB a page: narrow the filter")
    try:
        answer = parsed_json(content.decode())
    except (ValueError, RecursionError) as error:
        reason = json_reason(error) if not isinstance(error, UnicodeDecodeError) else "not text"
        raise StructureError(f"{host} does not answer with JSON ({reason}): check the address") from None
    return answer if isinstance(answer, dict) else {}


def _detail(error: HTTPError) -> str:
    """Return what a server says of an error, as OPTIMADE has it; empty if it says nothing."""
    try:
        said = parsed_json(error.read(2**16).decode())
        return str(said["errors"][0]["detail"])[:160]
    except Exception:  # anything may stand there
        return ""
