"""Queries to an OPTIMADE server: a real server on this machine, with pages, errors and answers that are none."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.optimade import OptimadeStructureAdapter

from crystalpredict.io import optimade_client
from crystalpredict.io.entries import Entry, read_entries
from crystalpredict.io.inputs import expand
from crystalpredict.io.sources import sources_of

ROCK_SALT = Lattice.cubic(5.64)


def document(name: str, anion: str) -> dict[str, Any]:
    sites = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    structure = Structure(ROCK_SALT, ["Na"] * 4 + [anion] * 4, np.concatenate([sites, (sites + 0.5) % 1]))
    return {**OptimadeStructureAdapter.get_optimade_structure(structure), "id": name}


DOCUMENTS = [document("x-1", "Cl"), document("x-2", "Br"), document("x-3", "I")]


class Handler(BaseHTTPRequestHandler):
    """Two structures a page; some filters are answered wrongly on purpose."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        wanted, offset = query.get("filter", ""), int(query.get("page_offset", 0))
        if wanted == "wrong":
            return self.answer(400, {"errors": [{"detail": "unknown property `wrong`"}]})
        if wanted == "text":
            return self.answer(200, "hello")
        if wanted == "file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return None
        host = f"http://{self.headers['Host']}"
        following = f"{host}/optimade/v1/structures?filter={wanted}&page_offset={offset + 2}" if offset == 0 else None
        if wanted == "elsewhere":
            following = "http://127.0.0.2:1/structures"
        if wanted == "loop":
            following = f"{host}{self.path}"
        data = [] if wanted == "nothing" else DOCUMENTS[offset : offset + 2]
        links = {"next": {"href": following} if wanted == "object" and following else following}
        return self.answer(200, {"data": data, "links": links if data else {}, "meta": {}})

    def answer(self, status: int, content: Any) -> None:
        body = (content if isinstance(content, str) else json.dumps(content, default=str)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/optimade"
        running.shutdown()
        thread.join()


def rows(*inputs: str) -> list[Entry]:
    return [entry for source in sources_of(expand(inputs)) for entry in read_entries(source, 5.0)]


@pytest.mark.parametrize("form", ["{}?{}", "{}/v1?{}", "{}/?filter={}"])
@pytest.mark.parametrize("wanted", ['elements HAS "Na" AND nelements=2', "object"])
def test_a_query_gives_the_structures_of_all_pages(server: str, form: str, wanted: str) -> None:
    found = rows("optimade:" + form.format(server, wanted))
    assert [(entry.path.rpartition("#")[2], entry.formula, entry.error) for entry in found] == [
        ("x-1", "NaCl", ""), ("x-2", "NaBr", ""), ("x-3", "NaI", ""),
    ]  # fmt: skip
    assert [entry.n_atoms for entry in found] == [8, 8, 8]
    assert parse_qs(urlsplit(Handler.asked[-2]).query)["filter"] == [wanted]


@pytest.mark.parametrize(
    ("wanted", "count", "told"),
    [
        ("wrong", 0, "answers 400 (unknown property `wrong`)"), ("text", 0, "does not answer with JSON"),
        ("file", 0, "answers 302"), ("nothing", 0, "no structure matches"), ("", 0, "give an address and a filter"),
        ("elsewhere", 2, "next page"), ("loop", 2, "next page"),
    ],
)  # fmt: skip
def test_what_a_server_should_not_answer_is_an_error_of_one_line(
    server: str, wanted: str, count: int, told: str
) -> None:
    *good, last = rows(f"optimade:{server}?{wanted}")
    assert [entry.error for entry in good] == [""] * count
    assert told in last.error
    assert "\n" not in last.error


def test_there_is_a_limit_on_structures_and_bytes(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimade_client, "MAX_STRUCTURES", 2)
    assert [entry.error[:9] for entry in rows(f"optimade:{server}?nelements=2")] == ["", "", "more than"]
    monkeypatch.setattr(optimade_client, "MAX_ANSWER_BYTES", 100)
    assert "MiB a page" in rows(f"optimade:{server}?nelements=2")[0].error


@pytest.mark.parametrize("address", ["ftp://localhost", "file:///etc/passwd", "example", "http://[", "http:///x"])
def test_only_addresses_of_the_web_are_asked(address: str) -> None:
    (entry,) = rows(f"optimade:{address}?nelements=2")
    assert "address" in entry.error


def test_offline_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    (entry,) = rows(f"optimade:http://127.0.0.1:{port}?nelements=2")
    assert "needs the network" in entry.error
    assert f"127.0.0.1:{port}" in entry.error
