"""Whether a server answers: it lists its model, and labels one question with a letter; or it lists its agents."""

import contextlib
import os
from collections.abc import Iterator

import httpx

from preceptor.serving.config import KEY_VARIABLE

# In the shape of the prompts that teachers send, so that the tiny model knows it too.
QUESTION = "Which letter comes first?\nA) A\nB) B\nReply with one letter.\nAnswer:"
REQUEST_SECONDS = 60.0  # the first completion of a large model


class NotReady(Exception):
    """Why a server gave no completion; if it `refused`, it understood the question, and asking again may be in vain."""

    def __init__(self, said: str, refused: bool = False) -> None:
        super().__init__(said)
        self.refused = refused


def ask(base_url: str, model: str, *, seconds: float = REQUEST_SECONDS) -> str:
    """The completion of `QUESTION` by a model that the server lists. Raises `NotReady`."""
    with _asking(base_url, seconds) as client:
        models = [str(each["id"]) for each in client.get("/models").raise_for_status().json()["data"]]
        if model not in models:
            raise NotReady(f"it lists {', '.join(models) or 'no model'}, not {model}")
        messages = [{"role": "user", "content": QUESTION}]
        body = {"model": model, "messages": messages, "max_tokens": 1, "temperature": 0}
        reply = client.post("/chat/completions", json=body).raise_for_status()
        return str(reply.json()["choices"][0]["message"]["content"])


def ask_agents(base_url: str, names: str, *, seconds: float = REQUEST_SECONDS) -> str:
    """Nothing, once a policy server lists the agents that are meant. Raises `NotReady`."""
    with _asking(base_url, seconds) as client:
        listed = {str(each["agent"]) for each in client.get("/agents").raise_for_status().json()}
        if listed != set(names.split(",")):
            raise NotReady(f"it lists {', '.join(sorted(listed))}, not {names}")
        return ""


@contextlib.contextmanager
def _asking(base_url: str, seconds: float) -> Iterator[httpx.Client]:
    """A client with the key; whatever goes wrong with it is raised as `NotReady`."""
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:  # past the proxy that the user may have for the world outside
        with httpx.Client(base_url=base_url, headers=headers, timeout=seconds, trust_env=False) as client:
            yield client
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise NotReady(f"HTTP {status}: {error.response.text[:300]}", 400 <= status < 500) from error
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        raise NotReady(f"{type(error).__name__}: {error}") from error


def is_label(said: str) -> bool:
    """Whether a completion is a letter of the question's menu."""
    return said.strip()[:1] in ("A", "B")


def answers(base_url: str) -> bool:
    """Whether a server answers at all, be it that it wants a key."""
    try:
        return httpx.get(f"{base_url}/models", timeout=3.0, trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False
