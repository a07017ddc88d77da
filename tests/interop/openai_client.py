"""Run by test_openai_clients.py with a server's address and the folder of a version of openai: chats, prints JSON."""

import json
import sys
from typing import Any

url, folder = sys.argv[1:]
sys.path.insert(0, folder)
import openai  # noqa: E402

client = openai.OpenAI(base_url=url, api_key="k", max_retries=0, timeout=60)
messages = [{"role": "user", "content": "A) go\nB) wait\nAnswer:"}]
asked: dict[str, Any] = {"model": "tiny", "messages": messages, "temperature": 0}
# What clients and frameworks send that cannot change an answer.
idle: dict[str, Any] = {
    "metadata": {"run": "x"}, "store": True, "safety_identifier": "x", "prompt_cache_key": "x", "user": "x",
    "service_tier": "auto", "parallel_tool_calls": False, "frequency_penalty": 0, "presence_penalty": 0.0,
    "logit_bias": {}, "response_format": {"type": "text"}, "tool_choice": "none", "n": 2, "extra_body": {"best_of": 2},
}  # fmt: skip

said = []
for more in ({}, {"stop": ["A", "B", "C"]}):  # a reply, and an empty one
    chats = client.chat.completions
    said += [chats.create(**asked, **more).choices[0].message, chats.parse(**asked, **more).choices[0].message]
    with chats.stream(**asked, **more, stream_options={"include_usage": True}) as stream:
        said.append(stream.get_final_completion().choices[0].message)
assert [bool(message.content) for message in said] == [True, True, True, False, False, False]
forms = [form for message in said for form in (message, message.model_dump(), message.to_dict())]
for form in forms:
    assert client.chat.completions.create(model="tiny", messages=[*messages, form, *messages]).choices
assert len(client.chat.completions.create(**asked, **idle).choices) == 2
assert len(client.completions.create(model="tiny", prompt="Scene:", best_of=2, n=2, suffix="", user="x").choices) == 2
try:
    client.chat.completions.create(**asked, response_format={"type": "json_object"})
except openai.BadRequestError as error:
    named = error.param
print(json.dumps({"version": openai.__version__, "forms": len(forms), "named": named}))  # noqa: T201
