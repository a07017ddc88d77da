"""What a server answers to a request when nothing is wrong: the OpenAI protocol over the toy model."""

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from tests.faulty_server.faults import Fault, Response, fastchat_error, openai_error
from tests.faulty_server.script import Script
from tests.faulty_server.toy import Toy, Weights, tokens

_OTHER = math.log(0.5)  # of tokens that nothing scores: an echoed prompt's, and a reply's after its first
_SCORED = 64  # tokens of a reply that come with log-probabilities, lest a megabyte become a hundred


class Refusal(Exception):
    """A request that is not answered: OpenAI's status, FastChat's code (whose status is always 400), the message."""

    def response(self, dialect: str) -> Response:
        """The error in the words of a dialect."""
        status, code, message = self.args
        kinds = {401: "AuthenticationError", 404: "NotFoundError"}
        if dialect == "fastchat":
            return fastchat_error(code, message)
        return openai_error(status, message, kinds.get(status, "BadRequestError"))


def reply(kind: str, request: Mapping[str, Any], script: Script, toy: Toy, fault: Fault) -> Response:
    """The response to a request of kind `chat`, `completions` or `models`, what is said as a fault would have it."""
    try:
        if kind == "models":
            return 200, {}, {"data": [{"id": name, "max_model_len": script.context} for name in script.models]}
        body = _generate(kind == "chat", request, script, toy, fault)
    except Refusal as refusal:
        return refusal.response(script.dialect)
    if fault.spoil is not None:
        fault.spoil(body)
    return 200, {}, body


def _generate(chat: bool, request: Mapping[str, Any], script: Script, toy: Toy, fault: Fault) -> dict[str, Any]:
    fastchat, model, n = script.dialect == "fastchat", request.get("model"), int(request.get("n") or 1)
    if model not in script.models:
        only = f"Only {'&&'.join(script.models)} allowed now, your model {model}"
        raise Refusal(404, 40301, only if fastchat else f"The model `{model}` does not exist.")
    for name in script.refuses:
        if name in request:
            instead = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
            raise Refusal(400, 40302, f"Unsupported parameter: '{name}' is not supported with this model.{instead}")
    echo = not chat and _honoured("echo", request, script.echo)
    limit = int(request.get("max_completion_tokens", request.get("max_tokens", 256 if chat else 16)))
    least = 0 if echo and not fastchat else 1
    if limit < least:
        raise Refusal(400, 40302, f"{limit} is less than the minimum of {least} - 'max_tokens'")
    top = _top(chat, request, script)
    choice = _honoured("structured_outputs", request, script.structured_outputs) and not script.thinks
    choices: list[dict[str, Any]] = []
    read = wrote = 0
    for prompt, last in _prompts(chat, request):
        size = len(tokens(prompt))
        if size + limit > script.context:
            what = f"This model's maximum context length is {script.context} tokens. However, you requested {limit} "
            raise Refusal(400, 40303, f"{what}output tokens and your prompt contains {size} input tokens.")
        said = toy.constrained(last, request["structured_outputs"]["choice"]) if choice else toy.answer(last)
        texts = [said] * n if isinstance(said, str) else []
        if isinstance(said, dict):
            seed, heat = None if fastchat else request.get("seed"), float(request.get("temperature", 1.0))
            texts = toy.draw(said, heat, prompt, seed, n)
        if chat and script.thinks:  # whatever it was told
            texts = [said := f"<think>{' hm' * script.thinks}</think>{text}" for text in texts]
        for text in texts:
            kept = fault.say(text) if fault.say else "".join(tokens(text)[:limit])
            finish = fault.finish if fault.say or kept == text else "length"
            logprobs: dict[str, Any] | None = None
            if top is not None and chat:
                logprobs = _of_chat(text if fault.say else said, kept, top)
            elif top is not None:
                logprobs = _of_completion(prompt, kept, toy, top, echo=echo, fastchat=fastchat)
            shown: dict[str, Any] = {"text": prompt + kept if echo else kept}
            if chat:
                shown = {"message": {"role": "assistant", "content": kept}}
            choices.append({"index": len(choices), **shown, "logprobs": logprobs, "finish_reason": finish})
            wrote += len(tokens(kept))
        read += size
    usage = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
    kind = "chat.completion" if chat else "text_completion"
    return {"id": "toy", "object": kind, "created": 0, "model": model, "choices": choices, "usage": usage}


def _prompts(chat: bool, request: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(whole prompt, its last message) of each prompt of a request."""
    if chat:
        contents = [message["content"] for message in request["messages"]]
        return [("\n".join(contents), contents[-1])]
    prompt = request["prompt"]
    return [(text, text) for text in ([prompt] if isinstance(prompt, str) else prompt)]


def _honoured(what: str, request: Mapping[str, Any], manner: str) -> bool:
    wanted = request.get(what) not in (None, False)
    if wanted and manner == "refused":
        raise Refusal(400, 40302, f"{what} is not supported by this server.")
    return wanted and manner == "honoured"


def _top(chat: bool, request: Mapping[str, Any], script: Script) -> int | None:
    """Alternatives to give with each token; None for no log-probabilities."""
    top = int((request.get("top_logprobs") if chat else request.get("logprobs")) or 0)
    if top > script.top_logprobs:
        raise Refusal(400, 40302, f"{top} log-probabilities were requested, and {script.top_logprobs} are allowed.")
    manner = script.logprobs if chat else script.echo if request.get("echo") else "honoured"
    return top if _honoured("logprobs", request, manner) else None


def _ranked(said: Weights | str) -> dict[str, float]:
    """Log-probabilities of first tokens, the most probable first."""
    weights = said if isinstance(said, dict) else {(tokens(said) or [""])[0]: 1.0}
    found = {text: math.log(p) for text, p in weights.items() if p > 0}
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _first(said: Weights | str, token: str, top: int) -> tuple[str, float, dict[str, float]]:
    """A first token, its log-probability (of one that is never said, as with real models, a small one), the best."""
    ranked = _ranked(said)
    return token, ranked.get(token, -20.0), dict(list(ranked.items())[:top])


def _of_chat(said: Weights | str, text: str, top: int) -> dict[str, Any]:
    rows = [(token, _OTHER, {token: _OTHER} if top else {}) for token in tokens(text)[:_SCORED]]
    rows[:1] = [_first(said, token, top) for token, *_ in rows[:1]]
    content = [
        {"token": token, "logprob": own, "top_logprobs": [{"token": t, "logprob": p} for t, p in tops.items()]}
        for token, own, tops in rows
    ]
    return {"content": content}


def _of_completion(prompt: str, text: str, toy: Toy, top: int, *, echo: bool, fastchat: bool) -> dict[str, Any]:
    """Scores of the reply's tokens, and with echo of the prompt's before them.

    Of an echoed prompt the last token is scored against what stands before it; no way of asking reads the others.
    """
    before = tokens(prompt) if echo else []
    names = [*before, *tokens(text)[:_SCORED]]
    rows: list[tuple[str, float | None, dict[str, float] | None]] = [(name, _OTHER, {name: _OTHER}) for name in names]
    if echo:
        rows[0] = (names[0], None, None)
    for at, context in ((len(before) - 1, "".join(before[:-1])), (len(before), prompt)):
        if 0 <= at < len(rows):
            name, own, tops = _first(toy.answer(context), names[at], top)
            rows[at] = (name, own, tops | {name: own})
    return {
        "text_offset": list(accumulate(map(len, names), initial=0 if echo else len(prompt)))[:-1],
        "token_logprobs": [own for _, own, _ in rows],
        "tokens": names,
        "top_logprobs": [{} if fastchat else tops for *_, tops in rows],
    }
