"""Requests of the OpenAI protocol, and the refusal of what this server does not do.

A server that ignores a field gives answers that were not asked for; so an unknown field is refused by its name, unless
it cannot change the answer: clients send many that do not, and hand back messages as they got them.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

MOST_CONTINUATIONS = 128
MOST_ALTERNATIVES = 20  # as vLLM and OpenAI have it
_MOST_FIELDS, _MOST_MESSAGES, _SHOWN = 100, 10_000, 1000  # of an object, a chat, and characters of an error
# Fields that keep accounts, or make things faster elsewhere.
_IDLE = {
    *("metadata", "store", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier"),
    *("prediction", "parallel_tool_calls", "include_obfuscation"),
}
# Fields at the value that they have where they are not given; so have empty ones.
_IDLE_AT: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "min_p", "min_tokens"), (0,)),
    **dict.fromkeys(("repetition_penalty", "length_penalty"), (1,)),
    **dict.fromkeys(("tool_choice", "function_call"), ("none", "auto")),
    **dict.fromkeys(
        ("use_beam_search", "ignore_eos", "include_stop_str_in_output", "continuous_usage_stats"), (False,)
    ),
    **dict.fromkeys(("skip_special_tokens", "add_generation_prompt"), (True,)),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "top_k": (-1, 0),
    "echo": (False,),
}
_KINDS = {401: "authentication_error", 404: "not_found_error"}

Text = Annotated[str, Field(min_length=1)]
Listed = BeforeValidator(lambda given: [given] if isinstance(given, str) else given)


class Refused(Exception):
    """A request that is not answered: HTTP status, what is wrong, the field, and OpenAI's code where there is one."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's shape."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {
            "error": {
                "message": str(self)[:_SHOWN],
                "type": kind,
                "param": self.param and self.param[:_SHOWN],
                "code": self.code,
            }
        }


class Strict(BaseModel):
    """Fields of the right type, no others but those that change nothing; null means that a field is not given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        if len(fields) > _MOST_FIELDS:  # each would be an error of its own
            raise ValueError(f"an object has {len(fields)} fields, and {_MOST_FIELDS} are allowed")
        return {
            k: v for k, v in fields.items() if v is not None and (k in cls.model_fields or not cls._idle(k, fields))
        }

    @classmethod
    def _idle(cls, name: str, fields: dict[str, Any]) -> bool:
        """Whether a field that is not known cannot change the answer."""
        value = fields[name]
        if name == "best_of":
            return bool(value == (fields.get("n") or 1))
        return value in ("", [], {}) or name in _IDLE or value in _IDLE_AT.get(name, ())

    @classmethod
    def read(cls, body: bytes) -> Self:
        """The request in a body. Raises `Refused`, which names the first field that is wrong."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as problem:
            error, *others = problem.errors()
        where = ".".join(map(str, error["loc"]))
        if error["type"] == "extra_forbidden":
            what = f"This server does not support {where!r}; it constrains by structured_outputs with a choice alone."
            raise Refused(400, what, where, "unsupported_parameter")
        more = f" (and {len(others)} more)" if others else ""
        raise Refused(400, f"{where or 'the request'}: {error['msg'].removeprefix('Value error, ')}{more}.", where)


class Constraint(Strict):
    """vLLM's `structured_outputs`; of its kinds, `choice`."""

    choice: list[Text] = Field(min_length=1, max_length=1000)


class StreamOptions(Strict):
    """What a stream ends with."""

    include_usage: bool = False


class Request(Strict):
    """What chats and completions have in common, and what the engine reads of either."""

    model: str
    n: int = Field(default=1, ge=1, le=MOST_CONTINUATIONS)
    seed: int | None = None
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: Annotated[list[Text], Field(max_length=16), Listed] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    structured_outputs: Constraint | None = None

    @model_validator(mode="after")
    def _stream_is_plain(self) -> Self:
        if "stream_options" in self.model_fields_set and not self.stream:
            raise ValueError("stream_options need stream: true")
        if self.stream and self.top is not None:
            raise ValueError("logprobs are not given in a stream")
        return self

    @property
    def top(self) -> int | None:
        """Alternatives wanted with each token; None for no log-probabilities."""
        raise NotImplementedError


class Message(Strict):
    """A message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str = ""
    name: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.role != "assistant" and "content" not in self.model_fields_set:  # an empty reply comes back as null
            raise ValueError("content is missing")
        return self


class ChatRequest(Request):
    """A request to `/v1/chat/completions`; its reply may fill the context by default."""

    messages: list[Message] = Field(min_length=1, max_length=_MOST_MESSAGES, fail_fast=True)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MOST_ALTERNATIVES)
    chat_template_kwargs: dict[str, Any] = {}

    @model_validator(mode="after")
    def _alternatives_stand_beside_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs need logprobs: true")
        return self

    @property
    def top(self) -> int | None:  # noqa: D102
        return self.top_logprobs if self.logprobs else None


class CompletionRequest(Request):
    """A request to `/v1/completions`."""

    prompt: Annotated[list[Text], Field(min_length=1, max_length=MOST_CONTINUATIONS), Listed]
    max_tokens: int = Field(default=16, ge=0)
    logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    echo: bool = False

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens must be at least 1 without echo")
        if len(self.prompt) * self.n > MOST_CONTINUATIONS:
            asked = f"{len(self.prompt)} in prompt times n = {self.n}"
            raise ValueError(f"{MOST_CONTINUATIONS} continuations are allowed in a request, not {asked}")
        if self.stream and self.echo:
            raise ValueError("echo is not supported in a stream")
        return self

    @property
    def top(self) -> int | None:  # noqa: D102
        return self.logprobs
