"""The server of a model folder, held to the OpenAI protocol by its client and to the model in this process."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import httpx
import openai
import pytest
import torch

from preceptor.teacher.card import TINY_MODEL
from preceptor.teacher.local import LocalModel
from tests.local_server import CHAT, PROMPT, WILD, Running, scores


def test_models_are_listed_with_what_a_client_wants_to_know(server: Running) -> None:
    (model,) = server.client.models.list()
    assert model.id == "tiny"
    assert model.model_extra == {"root": str(TINY_MODEL), "parent": None, "max_model_len": 512, "prompt": "compact"}
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_each_token_of_an_echo_is_scored_as_the_model_scores_it(server: Running) -> None:
    local, create = LocalModel(), server.client.completions.create
    reply = create(model="tiny", prompt=PROMPT, echo=True, logprobs=3, max_tokens=0)
    given: Any = reply.choices[0].logprobs
    ids = local.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        expected = local.network(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    own = expected.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    assert given.token_logprobs[1:] == pytest.approx(own, abs=1e-3)
    assert [max(top.values()) for top in given.top_logprobs[1:]] == pytest.approx(expected.amax(1).tolist(), abs=1e-3)
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (len(ids), 0)
    (longer,) = create(model="tiny", prompt=PROMPT, echo=True, logprobs=3, max_tokens=1, temperature=0).choices
    after: Any = longer.logprobs
    assert after.tokens[:-1] == given.tokens
    assert longer.text == PROMPT + after.tokens[-1]


def test_chat_answers_with_probabilities(server: Running) -> None:
    reply = server.client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=5, temperature=0)
    (choice,), usage = reply.choices, reply.usage
    said, content = choice.message.content, choice.logprobs and choice.logprobs.content
    assert (choice.finish_reason, choice.message.role) == ("stop", "assistant")
    assert said in ("A", "B")
    assert content
    top = content[0].top_logprobs
    assert [entry.logprob for entry in top] == sorted((entry.logprob for entry in top), reverse=True)
    assert (len(top), top[0].token, top[0].bytes, content[0].token) == (5, said, list(said.encode()), said)
    assert usage is not None
    assert usage.completion_tokens == 2, "the letter, and the token that ends the reply"
    assert usage.total_tokens == usage.prompt_tokens + 2


@pytest.mark.parametrize("limit", ["max_completion_tokens", "max_tokens"])
def test_both_names_of_the_limit_and_null_are_understood(server: Running, limit: str) -> None:
    reply = server.post("/chat/completions", CHAT | {limit: 1, "tools": None})
    assert reply.json()["usage"]["completion_tokens"] == 1


def test_samples_follow_seed_temperature_and_nucleus(server: Running) -> None:
    def letters(**more: Any) -> list[str]:
        reply = server.client.chat.completions.create(**CHAT, n=128, max_tokens=1, **more)
        assert [choice.index for choice in reply.choices] == list(range(128))
        return [choice.message.content or "" for choice in reply.choices]

    assert letters(seed=0) == letters(seed=0) != letters(seed=1)
    raw = scores(server)
    best = max(raw, key=lambda token: raw[token])
    assert set(letters(temperature=0)) == set(letters(top_p=0.01)) == {best}


def test_a_seed_is_reproducible_whoever_else_is_served(server: Running) -> None:
    def text(seed: int) -> str:
        return server.client.completions.create(**WILD, seed=seed).choices[0].text

    alone = [text(seed) for seed in range(8)]
    assert len(set(alone)) > 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(text, range(8))) == alone


def test_completions_offsets_begin_where_each_prompt_ends(server: Running) -> None:
    prompts = ["Scene:", PROMPT]
    reply = server.client.completions.create(**WILD | {"prompt": prompts}, logprobs=0, seed=4, n=2)
    assert [choice.index for choice in reply.choices] == list(range(4))
    for choice in reply.choices:
        logprobs: Any = choice.logprobs
        starts = accumulate(map(len, logprobs.tokens), initial=len(prompts[choice.index // 2]))
        assert logprobs.text_offset == list(starts)[:-1]
        assert [list(top) for top in logprobs.top_logprobs] == [[token] for token in logprobs.tokens]


@pytest.mark.parametrize("stop", [None, ["key", "the"]])
def test_a_stream_says_the_same_as_a_whole_reply(server: Running, stop: list[str] | None) -> None:
    whole = server.client.completions.create(**WILD, n=3, seed=5, stop=stop)
    texts, finishes = dict.fromkeys(range(3), ""), {}
    for chunk in server.client.completions.create(**WILD, n=3, seed=5, stop=stop, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                finishes[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert finishes == {choice.index: choice.finish_reason for choice in whole.choices}


def test_a_streamed_chat_has_roles_and_usage(server: Running) -> None:
    options: dict[str, Any] = CHAT | {"n": 2, "seed": 1, "max_tokens": 3}
    whole = server.client.chat.completions.create(**options)
    counted = {"stream": True, "stream_options": {"include_usage": True}}
    chunks: Any = list(server.client.chat.completions.create(**options, **counted))
    assert chunks[-1].usage == whole.usage
    for i in range(2):
        parts = [choice for chunk in chunks for choice in chunk.choices if choice.index == i]
        assert parts[0].delta.role == "assistant"
        assert "".join(part.delta.content or "" for part in parts) == whole.choices[i].message.content
        assert parts[-1].finish_reason == whole.choices[i].finish_reason


def test_a_stream_comes_as_it_is_made(server: Running, endless: None) -> None:
    seen = threading.Event()
    server.before_pass = lambda number: None if number < 20 else (seen.wait(30), None)[1]
    for chunk in server.client.completions.create(**WILD, seed=5, stream=True):
        if chunk.choices[0].text:
            seen.set()
    assert seen.is_set()
    assert server.passes >= 40


def test_a_stop_text_ends_a_reply_and_is_not_part_of_it(server: Running) -> None:
    full = server.client.completions.create(**WILD, seed=5).choices[0].text
    for stop in (full[4:7], full[4:30]):
        cut = server.client.completions.create(**WILD, seed=5, stop=stop).choices[0]
        assert cut.text == full[: full.index(stop)]
        assert cut.finish_reason == "stop"


def test_a_choice_binds(server: Running) -> None:
    def choose(*choice: str, **more: Any) -> list[str | None]:
        body = {"structured_outputs": {"choice": choice}}
        reply = server.client.chat.completions.create(**CHAT, n=64, seed=2, extra_body=body, **more)
        return [each.message.content for each in reply.choices]

    assert set(choose("the red zebra", "a", temperature=2.0)) <= {"the red zebra", "a"}
    assert set(choose("go", "go to the key", temperature=2.0)) == {"go", "go to the key"}
    raw = {letter: math.exp(scores(server)[letter]) for letter in "AB"}
    assert abs(choose("A", "B").count("A") / 64 - raw["A"] / sum(raw.values())) < 2 / math.sqrt(64) + 0.01


CHATS = (
    *({"guided_choice": ["A"]}, {"response_format": {"type": "json_object"}}, {"top_k": 5}),
    *({"tools": [{"type": "function", "function": {"name": "f"}}]}, {"chat_template_kwargs": {"tokenize": True}}),
    *({"structured_outputs": {"regex": "A|B"}}, {"structured_outputs": {"choice": []}}),
    *({"structured_outputs": {"choice": ["A", ""]}}, {"n": 129}, {"n": "2"}, {"temperature": 2.1}, {"top_p": 0.0}),
    *({"max_tokens": 0}, {"top_logprobs": 21}, {"top_logprobs": 2}, {"logprobs": 5}, {"stop": [""]}),
    *({"stream_options": {"include_usage": True}}, {"messages": []}, {"messages": [{"role": "robot", "content": "x"}]}),
    *({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, {"messages": [{"role": "user", "content": ""}]}),
    *({"messages": [{"role": "user", "content": None}]}, {"messages": [{}] * 10_001}, {"best_of": 2}, {"top_k": 1}),
    *({"tool_choice": "required"}, {"frequency_penalty": 0.1}, {"logit_bias": {"5": 1}}, {"verbosity": "low"}),
    *({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]}, {"reasoning_effort": "low"}),
    *({"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, {"chat_template_kwargs": {"x": "y" * 50_000}}),
)
COMPLETIONS = (
    *({"prompt": []}, {"prompt": ["x", 5]}, {"prompt": {"text": "x"}}, {"max_tokens": 0}, {"logprobs": 21}),
    *({"echo": True, "stream": True}, {"logprobs": 1, "stream": True}, {"suffix": "y"}, {"best_of": 3}),
    *({"prompt": ["x", "y" * 4000]}, {"prompt": None}, {"prompt": ["x"] * 129}, {"prompt": ["x", "y"], "n": 65}),
)


@pytest.mark.parametrize("change", [*CHATS, *COMPLETIONS], ids=lambda change: str(change)[:60])
def test_what_is_wrong_or_not_supported_is_refused_by_its_name(server: Running, change: dict[str, Any]) -> None:
    path, body = ("/chat/completions", CHAT) if change in CHATS else ("/completions", {"model": "tiny", "prompt": "x"})
    reply = server.post(path, body | change)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    assert next(iter(change)) in f"{error['message']} {error['param']}"
    assert not server.jobs, "nothing reached the model"


# What clients send, or hand back, that cannot change an answer.
IDLE_CHATS = (
    *({"metadata": {"a": "b"}}, {"store": True}, {"user": "x"}, {"safety_identifier": "x"}, {"prompt_cache_key": "x"}),
    *({"service_tier": "auto"}, {"best_of": 1}, {"n": 3, "best_of": 3}, {"parallel_tool_calls": False}, {"tools": []}),
    *({"tool_choice": "none"}, {"frequency_penalty": 0}, {"presence_penalty": 0.0}, {"logit_bias": {}}, {"top_k": -1}),
    *({"response_format": {"type": "text"}}, {"modalities": ["text"]}, {"repetition_penalty": 1.0}, {"min_p": 0}),
)
IDLE_EXTRAS: tuple[dict[str, Any], ...] = (
    *({"refusal": None, "tool_calls": []}, {"annotations": [], "audio": None, "function_call": {}}, {"parsed": None}),
    *({"content": None}, {"content": ""}, {"reasoning_content": ""}),
)


@pytest.mark.parametrize("change", [*IDLE_CHATS, *IDLE_EXTRAS], ids=str)
def test_what_cannot_change_an_answer_passes(server: Running, change: dict[str, Any]) -> None:
    said = [*CHAT["messages"], {"role": "assistant", "content": "A"}, *CHAT["messages"]]
    plain, same = CHAT | {"messages": said, "temperature": 0}, {key: change[key] for key in {"n"} & {*change}}
    if change in IDLE_EXTRAS:
        same = {"messages": [said[0], said[1] | ({"content": ""} if "content" in change else {}), said[2]]}
        change = {"messages": [said[0], said[1] | change, said[2]]}
    with_it, without = (server.post("/chat/completions", plain | more) for more in (change, same))
    assert with_it.status_code == 200, with_it.text
    assert with_it.json()["choices"] == without.json()["choices"]
    assert with_it.json()["usage"] == without.json()["usage"]


@pytest.mark.parametrize("many", [{"messages": [{}] * 3}, {f"x{number}": 1 for number in range(101)}], ids=["a", "b"])
def test_what_is_wrong_many_times_is_one_error(server: Running, many: dict[str, Any]) -> None:
    error = server.post("/chat/completions", CHAT | many).json()["error"]["message"]
    assert "messages.0.role" in error or "100 are allowed" in error
    assert " more)" not in error


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"model": NaN}', b"null"])
def test_a_body_that_is_no_request_is_a_400(server: Running, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    reply = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=headers, timeout=60)
    assert (reply.status_code, bool(reply.json()["error"]["message"])) == (400, True)


def test_errors_have_the_types_of_the_official_client(server: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="'tiny'") as unknown:
        server.client.chat.completions.create(**CHAT | {"model": "gpt-9"})
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        server.client.embeddings.create(model="tiny", input="x")
    error = httpx.get(f"{server.url}/v1/completions").json()["error"]
    assert error["message"] == "Method Not Allowed: GET /v1/completions"


def test_a_prompt_that_is_too_long_is_refused_with_the_numbers(server: Running) -> None:
    def complete(tokens: int, **more: Any) -> Any:
        return server.client.completions.create(model="tiny", prompt=" key" * 100, max_tokens=tokens, **more).usage

    used = complete(0, echo=True).prompt_tokens
    with pytest.raises(openai.BadRequestError, match=r"512 tokens.*requested 513") as error:
        complete(513 - used)
    assert f"({used} in the prompt, {513 - used} in the completion)" in str(error.value)
    assert error.value.code == "context_length_exceeded"
    complete(512 - used, temperature=0)


def test_a_megabyte_is_refused_and_blocks_nobody(server: Running) -> None:
    huge = CHAT | {"messages": [{"role": "user", "content": "go to the key " * 75_000}]}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, "/chat/completions", huge)
        assert server.post("/chat/completions", CHAT).status_code == 200
        assert answer.result().status_code == 400
        assert answer.result().json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("where", ["messages", "prompt", "choice"])
def test_a_text_that_cannot_fit_is_refused_before_its_tokens_are_made(
    server: Running, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = 512 * server.engine.codec.longest
    monkeypatch.setattr(server.engine.codec, "encode", lambda *given, **how: pytest.fail("tokens were made"))
    text = "x" * (longest + 1)
    path, body = "/completions", {"model": "tiny", "prompt": ["x", text]}
    if where != "prompt":
        path, body = "/chat/completions", CHAT | {"structured_outputs": {"choice": ["A", text]}}
    if where == "messages":
        body = CHAT | {"messages": [{"role": "user", "content": text}]}
    error = server.post(path, body).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert f"at most {longest} characters" in error["message"]
