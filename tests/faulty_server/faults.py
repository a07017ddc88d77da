"""What can go wrong with a language-model server, by name.

A fault answers instead of the model (`answer`), changes what the model says (`say`), spoils the finished reply
(`spoil`), or breaks the connection (`wire`, played by the server). FastChat's bodies are as its API server 0.2.36
writes them: it reports the failures of its workers as HTTP 400.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Status, headers, body: a dictionary goes out as JSON.
Response = tuple[int, dict[str, str], dict[str, Any] | str]

NOT_UTF8 = "\udcff\udcfe"  # surrogates that the server writes as the bytes FF FE
_PROSE = "I would rather dance."
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        about: It in a few words.
        answer: The response in place of a proper one, from the request and the step's seconds.
        say: What is said in place of the toy model's words.
        spoil: Changes the body of a proper reply in place.
        wire: What happens to the connection: `cut`, `drip`, `hang`, `refused`, `frozen`.
        needs: The request must have this field, or the fault would change nothing about it.
        timed: Whether `seconds` means something to it.
        finish: The finish_reason of what is said.
    """

    about: str
    answer: Callable[[Mapping[str, Any], float | None], Response] | None = None
    say: Callable[[str], str] | None = None
    spoil: Callable[[dict[str, Any]], None] | None = None
    wire: str = ""
    needs: str = ""
    timed: bool = False
    finish: str = "stop"

    @property
    def spoils(self) -> bool:
        """Whether it takes a reply of the model to play it."""
        return self.say is not None or self.spoil is not None

    def matters(self, request: Mapping[str, Any]) -> bool:
        """Whether it changes anything about a request. Words that follow an echoed prompt spoil no score of it."""
        wanted = request.get(self.needs)
        unneeded = bool(self.needs) and (wanted is None or wanted is False)
        return not unneeded and not (self.say is not None and request.get("echo"))


def openai_error(status: int, message: str, kind: str = "BadRequestError", code: str | int | None = None) -> Response:
    """An error in OpenAI's shape, which vLLM shares."""
    body = {"message": message, "type": kind, "param": None, "code": status if code is None else code}
    return status, {}, {"error": body}


def fastchat_error(code: int, message: str) -> Response:
    """An error in FastChat's shape; the status is 400 whatever happened."""
    return 400, {}, {"object": "error", "message": message, "code": code}


def _rate_limit(request: Mapping[str, Any], seconds: float | None) -> Response:
    status, _, body = openai_error(429, "Rate limit reached.", "rate_limit_exceeded", "rate_limit_exceeded")
    return status, {} if seconds is None else {"Retry-After": f"{seconds:g}"}, body


def _model_of(request: Mapping[str, Any]) -> str:
    return str(request.get("model", ""))


def _bad_gateway(request: Mapping[str, Any], seconds: float | None) -> Response:
    page = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
    return 502, {"Content-Type": "text/html"}, page


def _each_text(body: dict[str, Any], change: Callable[[str], str | None]) -> None:
    for choice in body["choices"]:
        if "message" in choice:
            choice["message"]["content"] = change(choice["message"]["content"])
        else:
            choice["text"] = change(choice["text"])


def _withhold(body: dict[str, Any]) -> None:
    for choice in body["choices"]:
        choice["logprobs"] = None


FAULTS: dict[str, Fault] = {
    # Statuses
    "rate_limit": Fault("429; with seconds, a Retry-After", answer=_rate_limit, timed=True),
    "internal_error": Fault("500, in plain text", lambda request, _: (500, {}, "Internal Server Error")),
    "bad_gateway": Fault("502, a page of HTML", _bad_gateway),
    "unavailable": Fault("503", lambda request, _: openai_error(503, "Overloaded.", "ServiceUnavailableError")),
    "unauthorized": Fault(
        "401", lambda request, _: openai_error(401, "Incorrect API key provided.", "AuthenticationError")
    ),
    "unknown_model": Fault(
        "404",
        lambda request, _: openai_error(
            404, f"The model `{_model_of(request)}` does not exist.", "NotFoundError", "model_not_found"
        ),
    ),
    "context_too_long": Fault(
        "400, vLLM's words",
        lambda request, _: openai_error(
            400,
            "This model's maximum context length is 512 tokens. However, you requested 16 output tokens and your "
            "prompt contains at least 497 input tokens, for a total of at least 513 tokens. Please reduce the length "
            "of the input prompt or the number of requested output tokens.",
        ),
    ),
    # FastChat's 400s
    "no_worker": Fault(
        "400 with code 40301: no worker is registered",
        lambda request, _: fastchat_error(40301, f"Only  allowed now, your model {_model_of(request)}"),
    ),
    "worker_killed": Fault(
        "400 with code 50001: the worker died", lambda request, _: fastchat_error(50001, "Server disconnected")
    ),
    "worker_error": Fault(
        "400 with code 50001: the worker failed",
        lambda request, _: fastchat_error(50001, "Expecting value: line 1 column 1 (char 0)"),
    ),
    "out_of_memory": Fault(
        "400 with code 50002: no GPU memory",
        lambda request, _: fastchat_error(
            50002,
            "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**\n\n(CUDA out of memory. "
            "Tried to allocate 20.00 MiB)",
        ),
    ),
    "worker_context": Fault(
        "400 with code 40303: prompt too long",
        lambda request, _: fastchat_error(
            40303,
            "This model's maximum context length is 512 tokens. However, your messages resulted in 513 tokens. Please "
            "reduce the length of the messages.",
        ),
    ),
    # The wire
    "refused": Fault("nobody listens for some seconds; open connections break", wire="refused", timed=True),
    "frozen": Fault("the whole server stands still for some seconds, then goes on", wire="frozen", timed=True),
    "cut": Fault("the body ends in the middle", wire="cut"),
    "drip": Fault("the body comes byte by byte, over some seconds", wire="drip", timed=True),
    "hang": Fault("no answer for some seconds, then the end of the connection", wire="hang", timed=True),
    # Replies
    "no_choices": Fault("an empty list of choices", spoil=lambda body: body.update(choices=[])),
    "null_content": Fault("content null", spoil=lambda body: _each_text(body, lambda text: None)),
    "wrong_model": Fault("a reply of another model", spoil=lambda body: body.update(model="another-model")),
    "logprobs_withheld": Fault("log-probabilities asked for and not given", spoil=_withhold, needs="logprobs"),
    "constraint_ignored": Fault("off the menu, constraint or not", say=lambda text: _PROSE, needs="structured_outputs"),
    "off_menu": Fault("prose", say=lambda text: _PROSE),
    "markdown": Fault("Markdown around the answer", say=lambda text: f"```text\n**{text}**\n```"),
    "json": Fault("JSON around the answer", say=lambda text: f'{{"answer": "{text}"}}'),
    "thinking": Fault("a thought before the answer", say=lambda text: f"<think>\nA or B?\n</think>\n\n{text}"),
    "truncated": Fault(
        "a thought that the limit of tokens cuts off", say=lambda text: "<think>\nA or B? Well, let", finish="length"
    ),
    "megabyte": Fault("a reply of a megabyte", say=lambda text: text + " and so on" * (_MEGABYTE // 10)),
    "invalid_utf8": Fault(
        "bytes that are not UTF-8", spoil=lambda body: _each_text(body, lambda text: text + NOT_UTF8)
    ),
}
