"""What can go wrong with a server, and what follows from it: retry, fall back, or abort.

The decision is made here and nowhere else, by the HTTP status *and* the code in the body, since FastChat reports the
death of a worker as HTTP 400.

- retry: it may pass. The request is sent again until its deadline; then the run stops, or falls back.
- fall back: the server answered, and what it said is no answer. The call is kept with that status and is never an
  answer; the scene is decided by its other calls, and is an abstention without any.
- abort: it will not pass by itself. The run stops and says what to do.
"""

import json
import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from time import monotonic
from typing import Any

from preceptor.ground.errors import visible

# Statuses of calls, beside those of `teacher/call.py` and the failures of the parser.
GARBLED = "garbled"  # the reply is not text
WRONG_MODEL = "wrong_model"  # another model answered than the one that was probed


class Handling(StrEnum):
    """What a failure means for the run."""

    RETRY = "retry"
    FALL_BACK = "fall back"
    ABORT = "abort"


class ServerFault(Exception):
    """A request that failed: `text` is what is shown, the server's words or the network's; `retry_after` is in seconds,
    `said` are the server's words alone."""

    def __init__(
        self,
        name: str,
        handling: Handling,
        text: str = "",
        *,
        retry_after: float = 0.0,
        status: int = 0,
        said: str = "",
    ) -> None:
        super().__init__()
        self.name, self.handling, self.text = name, handling, text
        self.retry_after, self.status, self.said = retry_after, status, said

    def __str__(self) -> str:
        return f"{self.name}: {self.text}" if self.text else self.name


# Name, HTTP statuses and codes or types in a body: FastChat's (fastchat/constants.py), OpenAI's and Anthropic's.
_FAULTS: dict[Handling, dict[str, tuple[int | str, ...]]] = {
    Handling.ABORT: {
        "wrong key": (401, 403, "40101", "40102", "40103", "invalid_api_key", "authentication_error"),
        "quota": (402, "42902", "insufficient_quota", "billing_not_active", "billing_hard_limit_reached"),
        "context": ("40303", "context_length_exceeded"),
        "unknown model": ("model_not_found",),
        "not found": (404,),
        "not implemented": (501,),
    },
    Handling.RETRY: {
        # 40301 is said of every model without workers, dead or not registered yet; the list tells unknown models.
        "no worker": ("40301", "50005"),
        "worker failed": ("50001", "50003", "50004"),
        "worker timed out": ("50006",),
        "out of memory": ("50002",),
        "overloaded": ("42903", "overloaded_error"),
        "rate limit": (429, "42901", "rate_limit_exceeded", "rate_limit_error"),
        "timed out": (408,),
        "conflict": (409,),
        "too early": (425,),
    },
}
_KNOWN = {key: (name, how) for how, names in _FAULTS.items() for name, keys in names.items() for key in keys}
_CONTEXT = re.compile(r"context length|maximum model length|max_model_len|context window", re.IGNORECASE)
_DEAD_WORKER = re.compile(r"server disconnected|cannot connect to host", re.IGNORECASE)
# What an error under the status 200 is about, where it has no code that is known.
_WORDS: dict[int, re.Pattern[str]] = {
    429: re.compile(r"rate.?limit|too many requests", re.IGNORECASE),
    402: re.compile(r"quota|credit|billing|insufficient (balance|funds)", re.IGNORECASE),
    401: re.compile(r"api.?key|unauthori[sz]ed|authenticat", re.IGNORECASE),
}


def fault_of_response(status: int, headers: Mapping[str, str], body: str) -> ServerFault:
    """The fault that a response with an error is; its status may be 200, where a gateway reports what is behind it."""
    text, codes = _message(body)
    code, sent = next((code for code in codes if code in _KNOWN), codes[0] if codes else ""), status
    if status < 400:
        meant = [int(code) for code in codes if re.fullmatch("[45][0-9]{2}", code)]
        meant += [meaning for meaning, words in _WORDS.items() if words.search(text)]
        status = meant[0] if meant else 500
    if code in _KNOWN:
        name, handling = _KNOWN[code]
    elif 400 <= status < 500 and _CONTEXT.search(text):
        name, handling = "context", Handling.ABORT
    elif status == 400 and _DEAD_WORKER.search(text):
        name, handling = "worker failed", Handling.RETRY
    else:
        otherwise = ("server error", Handling.RETRY) if status >= 500 else ("refused", Handling.ABORT)
        name, handling = _KNOWN.get(status, otherwise)
    try:
        retry_after = max(0.0, float(headers.get("retry-after", 0)))
    except ValueError:  # a date
        retry_after = 0.0
    words = f"HTTP {sent}{f', code {code}' if code and code != str(sent) else ''}: {text}"
    return ServerFault(name, handling, words, retry_after=retry_after, status=status, said=text)


def _message(body: str) -> tuple[str, list[str]]:
    """The message of an error, its code and its type where it has them, in OpenAI's or FastChat's shape, or in a list
    (Gemini); any other body is its own message. The parameter in question and what a gateway passes on are added."""
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        return " ".join(body.split()), []
    parsed = parsed[0] if isinstance(parsed, list) and len(parsed) == 1 else parsed
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    if not isinstance(error, dict):
        return str(error), []
    passed_on = error["metadata"].get("raw") if isinstance(error.get("metadata"), dict) else None
    parts = (error.get("message", error), passed_on, f"({error['param']})" if error.get("param") else None)
    return " ".join(str(part) for part in parts if part), [str(error[at]) for at in ("code", "type") if error.get(at)]


def error_in(response: Mapping[str, Any]) -> Any:
    """What a response with status 200 has in place of choices (OpenRouter, LiteLLM, FastChat); None for nothing."""
    choices = response.get("choices")
    if choices and isinstance(choices, list):
        error = choices[0].get("error") if isinstance(choices[0], dict) else None
        return error if isinstance(error, dict) else None
    return response.get("error") or (response if response.get("object") == "error" else None)


def say(text: str) -> None:
    """A line for the user; a progress bar on the terminal makes room for it."""
    sys.stderr.write(f"{visible(text)}\n")
    sys.stderr.flush()


class Breaker:
    """Keeps a run that may go on without its teacher from waiting for it again and again (Nygard, *Release It!*, 2007).

    Closed, it lets every request through. A request that spends its deadline in vain opens it: no request goes out
    until `cool_down` seconds have passed; then one does, and its outcome closes the breaker or opens it again. In
    `counters` it counts `breaker_opened`.
    """

    def __init__(self, url: str, cool_down: float, counters: dict[str, float]) -> None:
        self._url, self._cool_down, self._counters = url, cool_down, counters
        self._opened: float | None = None

    @property
    def open(self) -> bool:
        """Whether the last outcome was a failure."""
        return self._opened is not None

    def admits(self) -> bool:
        """Whether a request may go out; of an open breaker, as a trial."""
        return self._opened is None or monotonic() - self._opened >= self._cool_down

    def failed(self) -> None:
        """Open."""
        if not self.open:
            self._counters["breaker_opened"] += 1
            say(f"warning: {self._url} is given up; it is tried again every {self._cool_down:g} s")
        self._opened = monotonic()

    def succeeded(self) -> None:
        """Close."""
        if self.open:
            say(f"{self._url} is back")
        self._opened = None
