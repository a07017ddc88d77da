"""Whether a server answers: it lists its model, and labels one question with a letter."""

import os
from dataclasses import dataclass
from typing import Any

import httpx

from serving.config import KEY_VARIABLE

# In the shape of the prompts that teachers send, so that the tiny model knows it too.
QUESTION = "Which letter comes first?\nA) A\nB) B\nReply with one letter.\nAnswer:"
REQUEST_SECONDS = 60.0  # the first completion of a large model


@dataclass(frozen=True)
class Answer:
    """What a server said when it was asked.

    Attributes:
        ready: It lists the model and gave a completion.
        said: The completion; else what is amiss.
        refused: It understood the question and does not want to answer, so that asking again may be in vain.
    """

    ready: bool
    said: str
    refused: bool = False

    @property
    def labelled(self) -> bool:
        """Whether the completion is a letter of the menu."""
        return self.ready and self.said.strip()[:1] in ("A", "B")


def ask(url: str, model: str, *, seconds: float = REQUEST_SECONDS) -> Answer:
    """Ask the server at `url` for its models, and `model` for one completion."""
    try:
        with _client(url, seconds) as client:
            listed = client.get("/v1/models")
            listed.raise_for_status()
            models = [str(each["id"]) for each in listed.json()["data"]]
            if model not in models:
                return Answer(False, f"it lists {', '.join(models) or 'no model'}, not {model}")
            messages = [{"role": "user", "content": QUESTION}]
            body = {"model": model, "messages": messages, "max_tokens": 1, "temperature": 0}
            reply = client.post("/v1/chat/completions", json=body)
            reply.raise_for_status()
            return Answer(True, str(reply.json()["choices"][0]["message"]["content"]))
    except httpx.HTTPStatusError as error:
        refused = 400 <= error.response.status_code < 500
        return Answer(False, f"HTTP {error.response.status_code}: {error.response.text[:300]}", refused)
    except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
        return Answer(False, f"{type(error).__name__}: {error}")


def answers(url: str) -> bool:
    """Whether a server answers at all, be it that it wants a key."""
    try:
        with _client(url, seconds=3.0) as client:
            return client.get("/v1/models").status_code < 500
    except httpx.HTTPError:
        return False


def _client(url: str, seconds: float) -> httpx.Client:
    """A client that goes to the server itself, whatever proxy the user has for the world outside."""
    key = os.environ.get(KEY_VARIABLE)
    headers: dict[str, Any] = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=url, headers=headers, timeout=seconds, trust_env=False)
