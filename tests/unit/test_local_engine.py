"""The engine continues prompts in batches as the model continues each alone, without a cache, a token at a time."""

import contextlib
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from preceptor.ground.errors import UserError
from preceptor.serving.local.engine import Engine, Job
from preceptor.serving.local.protocol import CompletionRequest, Refused
from preceptor.serving.local.replies import Stream
from preceptor.teacher.card import TINY_MODEL
from tests.local_server import wait_for

SHAPE: dict[str, Any] = {
    "vocab_size": 629, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "eos_token_id": None,
}  # fmt: skip
# Rotated and learned positions; and attention that slides, over a window shorter than the prompts.
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128},
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 16},
}
PROMPTS = [[7, 8, 9], list(range(20, 60)), list(range(100, 117)), list(range(300, 317)), [5]]


pytestmark = pytest.mark.usefixtures("one_thread")


def build(kind: str, path: Path, **more: Any) -> Any:
    """A random model of a kind in a folder with the tiny model's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE, **more)).eval()
    for weights in network.parameters():
        weights.data.mul_(4 if weights.dim() > 1 else 1)  # or all that it says is one word
    network.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY_MODEL / name, path / name)
    return network


@torch.inference_mode()
def alone(network: Any, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log-probabilities."""
    ids, logprobs = list(prompt), []
    for _ in range(count):
        row = network(torch.tensor([ids]), use_cache=False).logits[0, -1].float().log_softmax(-1)
        ids.append(int(row.argmax()))
        logprobs.append(float(row.max()))
    return ids[len(prompt) :], logprobs


def wish(prompt: list[int], length: int, **more: Any) -> Job:
    return Job(CompletionRequest(model="tiny", prompt=["."], **more), prompt, length)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_go_on_as_each_prompt_does_alone(kind: str, tmp_path: Path) -> None:
    network = build(kind, tmp_path, **KINDS[kind])
    engine = Engine(tmp_path)
    engine.codec.stops = frozenset()
    lengths = [12, 6, 9, 12, 3]  # rows leave the batch at different times
    jobs = [wish(p, k, temperature=0.0, logprobs=1, n=2) for p, k in zip(PROMPTS, lengths, strict=True)]
    with contextlib.closing(engine):
        for job in jobs:
            engine.submit(job)
        for job in jobs:
            job.done.result(60)
    for job, prompt, length in zip(jobs, PROMPTS, lengths, strict=True):
        ids, logprobs = alone(network, prompt, length)
        assert len(set(ids)) > 1 or length < 4, "a test of one repeated word would see little"
        for grown in job.continuations:
            assert grown.ids == ids
            assert [score.logprob for score in grown.scores] == pytest.approx(logprobs, abs=1e-3)
            assert grown.finish == "length"


@pytest.mark.parametrize(("kind", "shares"), [("llama", True), ("gpt2", True), ("gemma2", False), ("bloom", False)])
def test_single_tokens_are_those_of_each_prompt_alone_whether_or_not_prompts_are_read_together(
    kind: str, shares: bool, tmp_path: Path
) -> None:
    network = build(kind, tmp_path, **KINDS.get(kind, {}))  # bloom tells positions by distances in the row
    prompts = [*PROMPTS, [*PROMPTS[1], 61, 62], [*PROMPTS[1][:30], 63], PROMPTS[1]]
    with contextlib.closing(Engine(tmp_path)) as engine:
        assert engine._shares is shares
        jobs = [wish(prompt, 1, temperature=0.0, logprobs=1, n=1 + (n == 2)) for n, prompt in enumerate(prompts)]
        jobs.append(wish(PROMPTS[1], 3, temperature=0.0, logprobs=1))
        engine._serve(jobs)
    for job, prompt in zip(jobs, [*prompts, PROMPTS[1]], strict=True):
        job.done.result(0)
        ids, logprobs = alone(network, prompt, job.max_tokens)
        for grown in job.continuations:
            assert grown.ids == ids
            assert [score.logprob for score in grown.scores] == pytest.approx(logprobs, abs=1e-3)


def test_what_cannot_be_served_is_refused_before_it_is(tmp_path: Path) -> None:
    build("mamba", tmp_path / "mamba")
    (tmp_path / "untold").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY_MODEL / name, tmp_path / "untold" / name)
    for name, said in (("mamba", "cannot be served"), ("untold", "cannot be loaded")):
        with pytest.raises(UserError, match=said):
            Engine(tmp_path / name)
    for tokens in (0, 1000):
        with pytest.raises(UserError, match=rf"was made for 1 to 512 tokens, not {tokens}.*(\n.*)*--max-model-len 512"):
            Engine(TINY_MODEL, max_model_len=tokens)


def test_a_closed_engine_takes_no_jobs_and_leaves_none_waiting() -> None:
    engine = Engine(TINY_MODEL)
    held, release = threading.Event(), threading.Event()
    engine._network.register_forward_pre_hook(lambda *_: (held.set(), release.wait(30), None)[2])
    jobs = [wish([5], 50) for _ in range(3)]
    for job in jobs:
        engine.submit(job)
        held.wait(30)
    closing = threading.Thread(target=engine.close)
    closing.start()
    wait_for(lambda: engine.stopped)
    release.set()
    closing.join(60)
    jobs.append(wish([5], 1))
    engine.submit(jobs[-1])
    for job in jobs:
        with pytest.raises(Refused, match="shutting down"):
            job.done.result(30)


def test_a_stream_holds_back_half_a_character_and_what_may_begin_a_stop_text() -> None:
    codec: Any = SimpleNamespace(text=lambda ids, after: "".join(map(chr, ids)))
    job = wish([1], 9, stop="xyz")
    stream, grown = Stream([job], codec), job.continuations[0]
    sent = []
    for text in ("a", "ax", "axy", "axyb", "axyb\ufffd", "axybé", "axybéx"):
        grown.ids = list(map(ord, text))
        sent.append("".join(new for _, new, _ in stream.news()))
    assert sent == ["a", "", "", "xyb", "", "é", ""]
    grown.finish = "length"
    assert list(stream.news()) == [(0, "x", "length")]
    assert not list(stream.news())
