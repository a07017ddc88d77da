"""The page's server by HTTP, over a session that is a list of questions: tokens, refusals, and who is asked what."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

import main as cli
from preceptor.ground.errors import UserError
from preceptor.serving.labelling.app import MOST_BYTES, PAGE, create_app
from preceptor.serving.ports import bound

ROOT = Path(__file__).parents[2]
TOKEN = "secret-of-this-run"


class Asking:
    """Questions by number, of which only option 0 is legal."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.full = False

    def state(self, who: str | None = None) -> dict[str, Any]:
        return {"who": who or "me", "question": len(self.said)}

    def answer(self, who: str | None, question: tuple[int, int, int], option: int | None, *rest: Any) -> bool:
        if self.full:
            raise UserError("No space left.", "df -h")
        if question[0] != len(self.said):
            return False
        if option not in (0, None):
            raise ValueError(f"option {option} is not legal")
        self.said.append((who, question, option, *rest))
        return True

    def undo(self, who: str | None = None) -> bool:
        return bool(self.said) and self.said.pop() is not None

    def frame(self, trajectory: int, step: int) -> bytes | None:
        return b"png" if step == 0 else None

    def agreement(self) -> list[dict[str, Any]]:
        return [{"pair": ["ann", "bob"]}]

    def lines(self) -> bytes:
        return b'{"kind": "answer"}\n'


@pytest.fixture
def asking() -> Asking:
    return Asking()


@pytest.fixture
def client(asking: Asking) -> Iterator[httpx.Client]:
    with TestClient(create_app(asking, TOKEN), base_url=f"http://localhost/{TOKEN}/") as made:
        yield made


def say(client: httpx.Client, number: int = 0, **rest: Any) -> httpx.Response:
    return client.post("answers", json={"question": [number, 5, 0], **rest})


@pytest.mark.parametrize(
    "before", ["http://localhost/", "http://localhost/wrong/", f"http://localhost/{TOKEN[:-1]}/", "http://localhost//"]
)
def test_without_the_token_nothing_is_told(before: str, client: httpx.Client, asking: Asking) -> None:
    body = {"question": [0, 5, 0], "option": 0}
    for path in ("", "state", "page.js", "frames/0/0.png", "agreement", "ledger.jsonl", "answers", "undo", "nothing"):
        for reply in (client.get(before + path), client.post(before + path, json=body)):
            assert reply.status_code == 403
            assert TOKEN not in reply.text
            assert "main.py label" in reply.text
            assert "default-src 'self'" in reply.headers["content-security-policy"]
    assert asking.said == []


def test_the_page_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    for path in ("", "page.css", "page.js", "pictures.js", "drawing.js", "parts.js", "base.css", "icon.svg"):
        reply = client.get(path)
        assert reply.status_code == 200
        assert "default-src 'self'" in reply.headers["content-security-policy"]
        assert "//" not in reply.text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), "no other address"
    without_slash = client.get(f"http://localhost/{TOKEN}", follow_redirects=False)
    assert without_slash.headers["location"] == f"/{TOKEN}/"


@pytest.mark.parametrize("name", ["../app.py", "..%2Fapp.py", "%2e%2e/app.py", "app.py", "page", "%00.js"])
def test_nothing_but_the_page_is_given_out(name: str, client: httpx.Client) -> None:
    assert client.get(name).status_code in (403, 404)


def test_what_is_posted_is_answered_with_what_comes_next(client: httpx.Client, asking: Asking) -> None:
    reply = say(client, option=0, interval=[3, 7], seconds=1.5, who="ann")
    assert (reply.status_code, reply.json()) == (200, {"question": 1, "who": "ann"})
    assert asking.said == [("ann", (0, 5, 0), 0, (3, 7), 1.5)]
    late = say(client, option=0, who="bob")
    assert (late.status_code, late.json()["question"]) == (409, 1), "refused, and told what is asked now"
    assert say(client, 1).status_code == 200, "without an option it is an abstention"
    assert asking.said[1] == (None, (1, 5, 0), None, None, 0.0)
    assert client.get("state", params={"who": "bob"}).json()["who"] == "bob"
    assert [client.post("undo", json={"who": "ann"}).status_code for _ in range(3)] == [200, 200, 409]


@pytest.mark.parametrize(
    "change",
    [
        {"option": 4}, {"question": [0, 5]}, {"option": "red"}, {"seconds": -1}, {"who": ""}, {"who": "x" * 61},
        {"who": "\x1b]0;mine\x07"}, {"who": "a\nb"}, {"who": "\u202enna"}, {"option": 10**30},
        {"question": [10**30, 0]}, {"question": None},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_words(change: dict[str, Any], client: httpx.Client, asking: Asking) -> None:
    reply = client.post("answers", json={"question": [0, 5, 0], "option": 0} | change)
    assert (reply.status_code, asking.said) == (400, [])
    assert reply.json()["error"]
    asking.full = True
    reply = say(client, option=0)
    assert (reply.status_code, "df -h" in reply.json()["error"]) == (507, True)


def test_what_is_too_large_or_asked_of_another_name_is_refused(client: httpx.Client, asking: Asking) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b" " * 1024 for _ in range(MOST_BYTES // 1024 + 1))

    for body in (b" " * (MOST_BYTES + 1), chunks()):
        reply = client.post("answers", content=body, headers={"content-type": "application/json"})
        assert (reply.status_code, str(MOST_BYTES) in reply.json()["error"]) == (413, True)
    for host in ("evil.example", "127.0.0.1.evil.example:8321"):
        reply = client.get("state", headers={"Host": host})
        assert (reply.status_code, "Host" in reply.json()["error"]) == (421, True)
    assert asking.said == []


def test_no_script_of_the_page_makes_markup_of_text() -> None:
    makes = r"\.(inner|outer)HTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|setAttribute\(.on"
    pages = [*PAGE.parents[1].glob("**/page/*.js")]  # those of other servers, too
    assert len(pages) > 3
    assert not [path for path in pages if re.search(makes, path.read_text())]


def test_what_is_given_out(client: httpx.Client) -> None:
    there, not_yet = client.get("frames/3/0.png"), client.get("frames/3/1.png")
    assert (there.status_code, there.content, not_yet.status_code) == (200, b"png", 204)
    assert "max-age" in there.headers["cache-control"]
    assert client.get("state").headers["cache-control"] == "no-store"
    assert client.get("ledger.jsonl").text == '{"kind": "answer"}\n'
    assert client.get("agreement").json() == [{"pair": ["ann", "bob"]}]


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with bound("127.0.0.1", 0) as door:
        door.listen()
        host, port = door.getsockname()
        assert host == "127.0.0.1", "nobody else reaches it"
        assert cli.main(["label", "--port", str(port), "--logdir", str(tmp_path)]) == 2
    assert f"Port {port}" in (said := capsys.readouterr().err)
    assert "--port" in said
    assert not list(tmp_path.iterdir())


def test_the_page_imports_no_learner() -> None:
    heavy = "{'torch', 'numpy', 'preceptor.agent'}"
    code = f"import sys, preceptor.serving.labelling.app; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
