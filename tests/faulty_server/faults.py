"""What can go wrong with a language-model server, by name; FastChat's bodies are as its version 0.2.36 writes them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Status, headers, body: a dictionary goes out as JSON.
Response = tuple[int, dict[str, str], dict[str, Any] | str]

_PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_LIMIT = "This model's maximum context length is 512 tokens. However, "
_TRAFFIC = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**\n\n(CUDA out of memory.)"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    answer: Response | None = None  # in place of a proper one
    say: Callable[[str], str] | None = None  # in place of the toy model's words
    spoil: Callable[[dict[str, Any]], object] | None = None  # changes the body of a proper reply in place
    seconds: float | None = None  # how long it lasts by default, where a step's `seconds` means something to it
    needs: str = ""  # the field without which a request would not notice
    finish: str = "stop"  # the finish_reason of what is said

    def matters(self, request: Mapping[str, Any]) -> bool:
        """Whether it changes anything about a request. Words that follow an echoed prompt spoil no score of it."""
        unneeded = bool(self.needs) and request.get(self.needs) in (None, False)
        return not unneeded and not (self.say is not None and request.get("echo"))


def openai_error(status: int, message: str, kind: str = "BadRequestError", code: str | int | None = None) -> Response:
    """An error in OpenAI's shape, which vLLM shares."""
    return status, {}, {"error": {"message": message, "type": kind, "param": None, "code": code or status}}


def fastchat_error(code: int, message: str) -> Response:
    """An error in FastChat's shape; the status is 400 whatever happened."""
    return 400, {}, {"object": "error", "message": message, "code": code}


def _write(change: Callable[[str], Any]) -> Callable[[dict[str, Any]], None]:
    def spoil(body: dict[str, Any]) -> None:
        for choice in body["choices"]:
            at, key = (choice["message"], "content") if "message" in choice else (choice, "text")
            at[key] = change(at[key])

    return spoil


def _under_200(**error: Any) -> Response:
    """An error as gateways pass it on (OpenRouter): the status is 200, and everything else is null."""
    return 200, {}, {"id": None, "choices": None, "model": None, "usage": None, "error": error}


FAULTS: dict[str, Fault] = {
    # Statuses; `seconds` of a rate_limit is its Retry-After.
    "rate_limit": Fault(openai_error(429, "Rate limit reached.", code="rate_limit_exceeded"), seconds=0.0),
    "internal_error": Fault((500, {}, "Internal Server Error")),
    "bad_gateway": Fault((502, {"Content-Type": "text/html"}, _PAGE)),
    "unavailable": Fault(openai_error(503, "Overloaded.", "ServiceUnavailableError")),
    "unauthorized": Fault(openai_error(401, "Incorrect API key provided.", "AuthenticationError")),
    "unknown_model": Fault(openai_error(404, "The model does not exist.", "NotFoundError", "model_not_found")),
    "context_too_long": Fault(openai_error(400, f"{_LIMIT}you requested 16 output tokens and your prompt has 497.")),
    # FastChat reports the failures of its workers as HTTP 400.
    "no_worker": Fault(fastchat_error(40301, "Only  allowed now, your model toy")),
    "worker_killed": Fault(fastchat_error(50001, "Server disconnected")),
    "worker_error": Fault(fastchat_error(50001, "Expecting value: line 1 column 1 (char 0)")),
    "out_of_memory": Fault(fastchat_error(50002, _TRAFFIC)),
    "worker_context": Fault(fastchat_error(40303, f"{_LIMIT}your messages resulted in 513 tokens.")),
    # Gateways report what failed behind them under the status 200.
    "limit_under_200": Fault(_under_200(message="Provider returned error", code=429, metadata={"raw": "Too many"})),
    "failure_under_200": Fault(
        spoil=lambda body: body["choices"][0].update(error={"code": 502, "message": "Bad gateway"})
    ),
    "credit_under_200": Fault(_under_200(message="Insufficient credits", code=402)),
    "key_under_200": Fault(_under_200(message="Invalid API key provided")),
    "redirect": Fault((307, {"Location": "http://127.0.0.1:9/v1/chat/completions"}, "")),
    # The wire: nothing listens for a while; everything stands still; the body ends in the middle, or comes by bytes.
    "refused": Fault(seconds=2.0),
    "frozen": Fault(seconds=2.0),
    "cut": Fault(),
    "drip": Fault(seconds=10.0),
    "hang": Fault(seconds=3600.0),
    # Replies
    "no_choices": Fault(spoil=lambda body: body.update(choices=[])),
    "no_usage": Fault(spoil=lambda body: body.pop("usage")),
    "parts": Fault(spoil=_write(lambda text: [{"type": "thinking", "thinking": []}, {"type": "text", "text": text}])),
    "escapes": Fault(say=lambda text: f"\x1b]0;owned\x07\x1b[2J{text}"),
    "null_content": Fault(spoil=_write(lambda text: None)),
    "wrong_model": Fault(spoil=lambda body: body.update(model="another-model")),
    "logprobs_withheld": Fault(
        spoil=lambda body: [each.update(logprobs=None) for each in body["choices"]], needs="logprobs"
    ),
    "constraint_ignored": Fault(say=lambda text: "I would rather dance.", needs="structured_outputs"),
    "off_menu": Fault(say=lambda text: "I would rather dance."),
    "markdown": Fault(say=lambda text: f"```text\n**{text}**\n```"),
    "json": Fault(say=lambda text: f'{{"answer": "{text}"}}'),
    "thinking": Fault(say=lambda text: f"<think>\nA or B?\n</think>\n\n{text}"),
    "truncated": Fault(say=lambda text: "<think>\nA or B? Well, let", finish="length"),
    "megabyte": Fault(say=lambda text: text + " and so on" * 105_000),
    "invalid_utf8": Fault(spoil=_write(lambda text: text + "\udcff\udcfe")),  # goes out as the bytes FF FE
}
