"""Requests of the OpenAI protocol, and the refusal of what this server does not do.

A server that ignores a field without a word gives answers that were not asked for; so a field that is unknown here, and
that would change the answer, is refused by its name.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.local.codec import Codec
from serving.local.sampling import END, Settings, Trie

MOST_CONTINUATIONS = 128
MOST_ALTERNATIVES = 20  # as vLLM and OpenAI have it
_DEFAULT_COMPLETION = 16

# Fields that are not supported, with the values that ask for nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "best_of": (1,),
    "top_k": (-1, 0),
    "min_p": (0,),
    "min_tokens": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "suffix": ("",),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,),
    "ignore_eos": (False,),
    "store": (False,),
}
_INSTEAD = {
    "guided_choice": 'write "structured_outputs": {"choice": [...]}',
    "guided_regex": 'only "structured_outputs": {"choice": [...]} is supported',
    "guided_json": 'only "structured_outputs": {"choice": [...]} is supported',
    "guided_grammar": 'only "structured_outputs": {"choice": [...]} is supported',
}


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
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """It in OpenAI's shape."""
        kinds = {401: "authentication_error", 404: "not_found_error", 413: "invalid_request_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class Constraint(BaseModel):
    """vLLM's `structured_outputs`; of its kinds, `choice`."""

    model_config = ConfigDict(extra="allow", strict=True)

    choice: list[str] = Field(min_length=1, max_length=1000)


class StreamOptions(BaseModel):
    """What a stream ends with."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class Request(BaseModel):
    """What chats and completions have in common."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    n: int | None = Field(default=None, ge=1, le=MOST_CONTINUATIONS)
    seed: int | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=0)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: dict[str, Any] | None = None
    user: str | None = None

    def check(self) -> None:
        """Raise `Refused` for a field that asks for what is not supported."""
        for name, value in (self.model_extra or {}).items():
            if value is None or any(value == neutral for neutral in _NEUTRAL.get(name, ())):
                continue
            instead = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
            raise Refused(400, f"This server does not support {name!r}{instead}.", name, "unsupported_parameter")
        if len(self.stops) > 16 or not all(self.stops):
            raise Refused(400, "stop must be at most 16 texts, none of them empty.", "stop")
        if self.stream_options is not None and not self.stream:
            raise Refused(400, "stream_options need stream.", "stream_options")

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def top(self) -> int | None:
        """Alternatives wanted with each token; None for no log-probabilities."""
        raise NotImplementedError

    def settings(self, max_tokens: int, codec: Codec) -> Settings:
        """How the prompt is to be continued."""
        return Settings(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=self.stops,
            seed=self.seed,
            top=self.top,
            choice=self._choices(codec),
        )

    def _choices(self, codec: Codec) -> Trie | None:
        given = {name: value for name, value in (self.structured_outputs or {}).items() if value is not None}
        if self.structured_outputs is None:
            return None
        if set(given) != {"choice"}:
            asked = ", ".join(sorted(given)) or "nothing"
            raise Refused(400, f"structured_outputs takes choice alone, not {asked}.", "structured_outputs")
        try:
            choices = codec.choices(Constraint(**given).choice)
        except ValidationError as error:
            raise Refused(400, "choice must be a list of texts.", "structured_outputs") from error
        if END in choices:
            raise Refused(400, "A choice must not be empty.", "structured_outputs")
        return choices


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def plain(self) -> dict[str, str]:
        """It as chat templates want it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Request):
    """A request to `/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    chat_template_kwargs: dict[str, Any] | None = None

    def check(self) -> None:
        """Raise `Refused` for what is not supported or contradicts itself."""
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise Refused(400, "top_logprobs need logprobs: true.", "top_logprobs")

    @property
    def top(self) -> int | None:
        """Alternatives wanted with each token; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def length(self, prompt: int, longest: int) -> int:
        """Most tokens of the reply: by default what the context leaves."""
        asked = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return max(1, longest - prompt) if asked is None else asked


class CompletionRequest(Request):
    """A request to `/v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    echo: bool | None = None
    add_special_tokens: bool = True

    def check(self) -> None:
        """Raise `Refused` for what is not supported or contradicts itself."""
        super().check()
        if not self.prompt:
            raise Refused(400, "prompt must not be empty.", "prompt")
        if self.max_tokens == 0 and not self.echo:
            raise Refused(400, "max_tokens must be at least 1 without echo.", "max_tokens")
        if self.stream and self.echo:
            raise Refused(400, "echo is not supported in a stream.", "echo")

    @property
    def top(self) -> int | None:
        """Alternatives wanted with each token; None for no log-probabilities."""
        return self.logprobs

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, texts or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return self.prompt  # type: ignore[return-value]

    def length(self) -> int:
        """Most tokens of the reply."""
        return _DEFAULT_COMPLETION if self.max_tokens is None else self.max_tokens


def validation_message(errors: list[dict[str, Any]]) -> tuple[str, str]:
    """(message, field) for a person, of pydantic's list of what is wrong."""
    error = errors[0]
    if error["type"] == "json_invalid":
        return f"The body is not JSON: {error['ctx']['error']}.", "body"
    where = ".".join(str(part) for part in error["loc"] if part != "body") or "the body"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{where}: {error['msg']}{more}.", where
