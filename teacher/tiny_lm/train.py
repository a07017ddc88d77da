"""Train the tiny language model from scratch: `python -m preceptor.teacher.tiny_lm.train --out teacher/tiny_lm/model`.

Pairs are drawn freshly for each batch, the loss is on the reply and on judging each line of the menu, and the model is
judged, from the files that it was saved to, on scenes and menus that it never saw.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor
from tyro.conf import OmitArgPrefixes

from preceptor.envs.task import Task
from preceptor.teacher.calibration import expected_calibration_error, fit_temperature
from preceptor.teacher.card import CARD_FILE
from preceptor.teacher.local import CPU_BATCH_TOKENS, LocalModel, batches, silence_transformers
from preceptor.teacher.prompts import distinct_scenes, load_template
from preceptor.teacher.tiny_lm.pairs import Pair, PairMix, PairSource, held_out_texts
from preceptor.teacher.tiny_lm.plan_pairs import PlanPair
from preceptor.teacher.tiny_lm.tokenizer import train_tokenizer

log = logging.getLogger("tiny_lm")
Draw = Callable[[np.random.Generator, int], Sequence[Pair | PlanPair]]  # so many pairs to train on

PROMPT = "compact"
CARD = Path(__file__).with_name("card.md")  # what the model is, what it was seen to do, and what it is not for
_JUDGED = 256  # prompts that are judged at once
_BREAK = "\u010a"  # how byte-level BPE writes a line break


@dataclass(frozen=True)
class Config:
    """How the model is built and trained."""

    hidden: int = 128
    intermediate: int = 320
    layers: int = 4
    heads: int = 4  # of 32: vLLM on a CPU refuses a head size of 16
    positions: int = 512
    vocab: int = 1024  # at most; merges stop earlier if the prompts have no more phrases
    steps: int = 2600
    batch: int = 64
    warmup: int = 100  # steps
    hold: int = 0  # steps before which the learning rate is the whole, and then that of the cosine
    lr: float = 1e-3  # falls along a cosine to a hundredth
    weight_decay: float = 0.01
    scenes: int = 20_000  # drawn per task for the pool
    corpus: int = 20_000  # prompts that the tokenizer is trained on
    judged: int = 4000  # pairs in each held-out set
    seed: int = 0


DEFAULT = Config()


def build_model(config: Config, tokenizer: Any) -> Any:
    """An untrained Llama with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    silence_transformers()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            head_dim=config.hidden // config.heads,
            max_position_embeddings=config.positions,
            tie_word_embeddings=True,
            # Llama's 0.02 is for widths of thousands; here it costs hundreds of steps before anything is learnt.
            initializer_range=0.06,
            # FastChat's old loader insists on a factor.
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "factor": 1.0},
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Example(NamedTuple):
    """A pair in tokens: `asked`, `reply` with the end after it, and (position of its last token, whether it is right)
    of each line of its menu."""

    asked: list[int]
    reply: list[int]
    lines: list[tuple[int, bool]]


def encoded(tokenizer: Any, pairs: Sequence[Pair | PlanPair]) -> list[Example]:
    """Pairs in tokens. The tokenizer's lines end where its tokens end in a line break."""
    asked = tokenizer([pair.asked for pair in pairs], add_special_tokens=False)["input_ids"]
    replies = tokenizer([pair.reply for pair in pairs], add_special_tokens=False)["input_ids"]
    examples = []
    for ids, reply, pair in zip(asked, replies, pairs, strict=True):
        lines = []
        if isinstance(pair, Pair):
            breaks = [i for i, text in enumerate(tokenizer.convert_ids_to_tokens(ids)) if text.endswith(_BREAK)]
            lines = [(end, line == pair.answer) for line, end in enumerate(breaks[-len(pair.prompt.words) :])]
        examples.append(Example(ids, [*reply, tokenizer.eos_token_id], lines))
    return examples


def losses(model: Any, judge_line: torch.nn.Linear, examples: Sequence[Example]) -> Tensor:
    """Cross-entropy of [the replies, judging each line of the menus], each the sum over the examples.

    An example's own loss is the sum over its tokens divided by the root of their number, and the mean over its lines.

    The second one asks, at the end of every menu line, whether that option is the right one. Without it the model does
    not learn in an hour to compare the colour of a key with that of the door (dev/LOG.md), since the answer's
    position sees that comparison through three layers; with it, in minutes. `judge_line` is thrown away afterwards.

    Args:
        model: A causal language model.
        judge_line: From hidden states to the logit of "this line is right".
        examples: N of them.
    """
    told = [torch.tensor([*asked, *reply[:-1]]) for asked, reply, _ in examples]
    padded = torch.nn.utils.rnn.pad_sequence(told, batch_first=True)
    hidden = model.base_model(input_ids=padded, use_cache=False).last_hidden_state  # [N, T, H]
    said = [
        (row, at, token, len(reply) ** -0.5)
        for row, (asked, reply, _) in enumerate(examples)
        for at, token in enumerate(reply, len(asked) - 1)
    ]
    rows, places, tokens, weights = map(torch.tensor, zip(*said, strict=True))
    logits = model.get_output_embeddings()(hidden[rows, places]).float()
    answer = (torch.nn.functional.cross_entropy(logits, tokens, reduction="none") * weights).sum()
    judged = [
        (row, at, float(right), 1 / len(lines)) for row, (_, _, lines) in enumerate(examples) for at, right in lines
    ]
    if not judged:
        return torch.stack([answer, torch.zeros(())])
    rows, places, rights, weights = map(torch.tensor, zip(*judged, strict=True))
    opinions = judge_line(hidden[rows, places]).squeeze(1).float()
    return torch.stack(
        [answer, torch.nn.functional.binary_cross_entropy_with_logits(opinions, rights, weights, reduction="sum")]
    )


def train(draw: Draw, config: Config, prefix: str = "") -> tuple[Any, Any]:
    """Tokenizer and trained model, on the pairs that `draw` gives; `prefix` is what all prompts begin with."""
    rng = np.random.default_rng([config.seed, 1])
    torch.manual_seed(config.seed)
    corpus = [text for pair in draw(rng, config.corpus) for text in (pair.asked, pair.reply)]
    tokenizer = train_tokenizer(corpus, config.vocab, prefix)
    model = build_model(config, tokenizer)
    log.info("%d parameters, %d tokens", sum(p.numel() for p in model.parameters()), len(tokenizer))
    judge_line = torch.nn.Linear(config.hidden, 1)
    weights = [*model.parameters(), *judge_line.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(config))
    started, recent = time.perf_counter(), []
    for step in range(config.steps):
        examples = encoded(tokenizer, draw(rng, config.batch))
        optimizer.zero_grad(set_to_none=True)
        answer = 0.0
        # In parts that a processor's cache holds, float32 is as fast as bfloat16, which not every processor has.
        for part in batches([len(one.asked) + len(one.reply) for one in examples], CPU_BATCH_TOKENS):
            both = losses(model, judge_line, [examples[i] for i in part]) / config.batch
            both.sum().backward()
            answer += float(both[0].detach())
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        recent.append(answer)
        if (step + 1) % 100 == 0:
            log.info("step %d loss %.4f %.0f s", step + 1, float(np.mean(recent[-100:])), time.perf_counter() - started)
    return tokenizer, model.eval()


def _cosine(config: Config) -> Callable[[int], float]:
    def factor(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / config.warmup
        if step < config.hold:
            return 1.0
        progress = (step - config.warmup) / max(1, config.steps - config.warmup)
        return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress))

    return factor


def save(tokenizer: Any, model: Any, out: Path, reply_tokens: int = 4) -> None:
    """Weights, tokenizer, chat template and configurations, as transformers, vLLM and FastChat load them."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config.max_new_tokens = reply_tokens
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    # transformers 5 writes a class that transformers 4, and so FastChat, does not know.
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2) + "\n")


def menu_logits(model: LocalModel, pairs: Sequence[Pair]) -> Tensor:
    """Logits [N, 26] of the letters, minus infinity for those that are not on the menu."""
    tokens = model.encode([pair.prompt for pair in pairs])
    logits = torch.cat([model.letter_logits(tokens[i : i + _JUDGED]) for i in range(0, len(tokens), _JUDGED)])
    for row, pair in zip(logits, pairs, strict=True):
        row[len(pair.prompt.menu.options) :] = -torch.inf
    return logits


def answers_of(pairs: Sequence[Pair]) -> Tensor:
    """Right positions [N]."""
    return torch.tensor([pair.answer for pair in pairs])


def accuracy(logits: Tensor, answers: Tensor) -> float:
    """Share of prompts whose best letter is the right one."""
    return float((logits.argmax(dim=-1) == answers).double().mean())


def _accuracy_by_task(logits: Tensor, pairs: Sequence[Pair]) -> dict[str, float]:
    names, answers = np.array([pair.task for pair in pairs]), answers_of(pairs)
    return {str(name): accuracy(logits[names == name], answers[names == name]) for name in np.unique(names)}


def judge(mix: PairMix, out: Path, config: Config) -> dict[str, Any]:
    """What the saved model gets right of what was held out, with the temperature fitted on one half of it."""
    model = LocalModel(out)
    rng = np.random.default_rng([config.seed, 2])
    held_out = _draw(mix.sources, "draw_held_out", rng, config.judged)
    fitting, reported = held_out[::2], held_out[1::2]
    play = _draw(mix.sources, "draw_play", rng, config.judged)
    temperature = fit_temperature(menu_logits(model, fitting), np.eye(26, dtype=np.float32)[answers_of(fitting)])
    logits, answers = menu_logits(model, reported), answers_of(reported)
    calibrated, raw = (
        expected_calibration_error((logits / t).softmax(1).numpy(), answers.numpy()) for t in (temperature, 1.0)
    )
    return {
        "held_out_accuracy": accuracy(logits, answers),
        "held_out_accuracy_by_task": _accuracy_by_task(logits, reported),
        "play_accuracy_by_task": _accuracy_by_task(menu_logits(model, play), play),
        "temperature": temperature,
        "ece": calibrated,
        "ece_uncalibrated": raw,
    }


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """Write `README.md` into the model's folder from the figures of its training."""
    play = facts["play_accuracy_by_task"]
    by_task = "\n".join(f"| {n} | {a:.2%} | {play[n]:.2%} |" for n, a in facts["held_out_accuracy_by_task"].items())
    values = facts["config"] | facts | {"tasks": ", ".join(facts["tasks"]), "by_task": by_task}
    (folder / "README.md").write_text(CARD.read_text().format(**values))


def _draw(sources: Sequence[PairSource], how: str, rng: np.random.Generator, count: int) -> list[Pair]:
    """`count` pairs, of each task the same number."""
    return [getattr(sources[i % len(sources)], how)(rng) for i in range(count)]


def make_mix(tasks: Sequence[Task], config: Config) -> PairMix:
    """Pools of scenes of every task.

    No scene of a maze is held out, only menus: a short prompt does not tell the map, so that what is right in one place
    cannot be told from the others (0.15 to 0.39 where it was tried).
    """
    rng, template = np.random.default_rng([config.seed, 0]), load_template(PROMPT)
    pools = [distinct_scenes(task, rng, config.scenes) for task in tasks]
    held_out = held_out_texts([pool for task, pool in zip(tasks, pools, strict=True) if not task.continuous])
    return PairMix([PairSource(task, template, pool, held_out) for task, pool in zip(tasks, pools, strict=True)])


def main(out: Path, tasks: tuple[str, ...] = (), config: OmitArgPrefixes[Config] = DEFAULT) -> None:
    """Train, save, judge, and write the card.

    Args:
        out: Folder for the model.
        tasks: What it is trained on; all tasks of the catalogue if none is named.
        config: How.
    """
    from preceptor.envs.catalog import TAUGHT, get_task

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    started = time.perf_counter()
    mix = make_mix([get_task(name) for name in tasks or TAUGHT], config)
    for source in mix.sources:
        log.info("%s: %d scenes to train on, %d held out", source.task.name, len(source.train), len(source.held_out))
    tokenizer, model = train(mix.draw_train, config)
    save(tokenizer, model, out)
    minutes = (time.perf_counter() - started) / 60
    result = judge(mix, out, config)
    facts = {
        "prompt": PROMPT,
        "tasks": [source.task.name for source in mix.sources],
        "parameters": sum(p.numel() for p in model.parameters()),
        "pairs": config.steps * config.batch,
        "training_minutes": round(minutes, 1),
        "torch": torch.__version__,
        "config": asdict(config),
        **result,
    }
    (out / CARD_FILE).write_text(json.dumps(facts, indent=2) + "\n")
    write_card(out, facts)
    log.info(json.dumps(result, indent=2))


if __name__ == "__main__":
    tyro.cli(main)
