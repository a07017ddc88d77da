"""Requests of the OpenAI protocol, and the refusal of what this server does not do.

A server that ignores a field gives answers that were not asked for; so an unknown field is refused by its name, unless
it is null.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.local.engine import Engine, Job, Settings

MOST_CONTINUATIONS = 128
MOST_ALTERNATIVES = 20  # as vLLM and OpenAI have it
_KINDS = {401: "authentication_error", 404: "not_found_error"}

Text = Annotated[str, Field(min_length=1)]


class Refused(Exception):
    """A request that is not answered, for a reason that its sender is told.

    Args:
        status: HTTP status.
        message: What is wrong.
        param: The field.
        code: OpenAI's word for it, where there is one.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's shape."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def invalid(errors: Sequence[Mapping[str, Any]]) -> Refused:
    """The refusal for pydantic's list of what is wrong."""
    error = errors[0]
    where = ".".join(str(part) for part in error["loc"] if part != "body")
    if error["type"] == "json_invalid":
        return Refused(400, f"The body is not JSON: {error['ctx']['error']}.", "body")
    if error["type"] == "extra_forbidden":
        message = f"This server does not support {where!r}; it constrains by structured_outputs with a choice alone."
        return Refused(400, message, where, "unsupported_parameter")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    message = error["msg"].removeprefix("Value error, ")
    return Refused(400, f"{where or 'the request'}: {message}{more}.", where or None)


class Strict(BaseModel):
    """Fields of the right type, no others; null means that a field is not given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, fields: Any) -> Any:
        return {k: v for k, v in fields.items() if v is not None} if isinstance(fields, dict) else fields


class Constraint(Strict):
    """vLLM's `structured_outputs`; of its kinds, `choice`."""

    choice: list[Text] = Field(min_length=1, max_length=1000)


class StreamOptions(Strict):
    """What a stream ends with."""

    include_usage: bool = False


class Request(Strict):
    """What chats and completions have in common."""

    model: str
    n: int = Field(default=1, ge=1, le=MOST_CONTINUATIONS)
    seed: int | None = None
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: Text | Annotated[list[Text], Field(max_length=16)] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    structured_outputs: Constraint | None = None
    user: str = ""

    @model_validator(mode="after")
    def _stream_is_plain(self) -> "Request":
        if self.stream_options and not self.stream:
            raise ValueError("stream_options need stream: true")
        if self.stream and self.top is not None:
            raise ValueError("logprobs are not given in a stream")
        return self

    @property
    def top(self) -> int | None:
        """Alternatives wanted with each token; None for no log-probabilities."""
        raise NotImplementedError

    def job(self, engine: Engine, ids: Sequence[int], text: str, length: int, *, echo: bool = False) -> Job:
        """The work for a prompt whose reply has `length` tokens at most. Raises `Refused`."""
        field, longest = "messages" if isinstance(self, ChatRequest) else "prompt", engine.max_model_len
        if not ids:
            raise Refused(400, f"The tokenizer makes no tokens of {field}.", field)
        if len(ids) + length > longest:
            what = f"However, you requested {len(ids) + length} tokens ({len(ids)} in the prompt, {length} in the "
            what = f"This model's maximum context length is {longest} tokens. {what}completion)."
            raise Refused(400, f"{what} Please reduce the length of either.", field, "context_length_exceeded")
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        choice = engine.codec.choices(self.structured_outputs.choice) if self.structured_outputs else None
        settings = Settings(length, self.temperature, self.top_p, stop, self.seed, self.top, choice)
        return Job(ids, text, settings, n=self.n, echo=echo)


class Message(Strict):
    """A message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str
    name: str = ""


class ChatRequest(Request):
    """A request to `/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MOST_ALTERNATIVES)
    chat_template_kwargs: dict[str, Any] = {}

    @model_validator(mode="after")
    def _alternatives_stand_beside_logprobs(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs need logprobs: true")
        return self

    @property
    def top(self) -> int | None:
        """Alternatives wanted with each token; None for no log-probabilities."""
        return self.top_logprobs if self.logprobs else None

    def jobs(self, engine: Engine) -> Iterable[Job]:
        """The work to be done. Raises `Refused`, and what chat templates raise."""
        messages = [{"role": message.role, "content": message.content} for message in self.messages]
        ids = engine.codec.render(messages, self.chat_template_kwargs)
        asked = self.max_completion_tokens or self.max_tokens  # by default, what the context leaves
        yield self.job(engine, ids, "", asked or max(1, engine.max_model_len - len(ids)))


class CompletionRequest(Request):
    """A request to `/v1/completions`."""

    prompt: Text | list[Text] = Field(min_length=1)
    max_tokens: int = Field(default=16, ge=0)
    logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    echo: bool = False

    @model_validator(mode="after")
    def _asks_for_something(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens must be at least 1 without echo")
        if self.stream and self.echo:
            raise ValueError("echo is not supported in a stream")
        return self

    @property
    def top(self) -> int | None:
        """Alternatives wanted with each token; None for no log-probabilities."""
        return self.logprobs

    def jobs(self, engine: Engine) -> Iterable[Job]:
        """The work to be done. Raises `Refused`."""
        for text in [self.prompt] if isinstance(self.prompt, str) else self.prompt:
            yield self.job(engine, engine.codec.encode(text, special=True), text, self.max_tokens, echo=self.echo)
