"""The model card: what the tiny model is, what it was seen to do, and what it is not for."""

from pathlib import Path
from typing import Any

_CARD = """---
license: mit
library_name: transformers
pipeline_tag: text-generation
language: en
tags: [llama, gridworld, teacher]
---
# Preceptor's tiny teacher

A Llama of {parameters:,} parameters, trained from scratch, that reads a scene of a gridworld task or of a maze, and a
lettered menu of options, and answers with one letter. **It is a stand-in**, so that everything runs offline and in
seconds: it learnt these tasks from their scripted experts and knows nothing else. Put any chat model in its place with
`--teacher llm --base-url URL`.

- Tasks: {tasks}.
- Trained on {pairs:,} freshly drawn pairs in {training_minutes} minutes on one CPU thread (torch {torch}), by
  `python -m teacher.tiny_lm.train --out teacher/tiny_lm/model --seed {seed} --steps {steps}`.
- Prompt template: `{prompt}` (`teacher/prompts/{prompt}.txt`); the reply is one letter.
- Files: safetensors, `tokenizer.json`, chat template and configurations; transformers, vLLM and FastChat
  (`--conv-template raw`) load the folder unchanged.

## What it was seen to do
Single prompts, one menu order each. Held out are a tenth of the scenes and a tenth of the menus (words and order); of
mazes, whose map is not in the prompt, the menus alone. All pairs of colours were seen in training: pairs never seen
come out little better than chance, since a model of this size learns them by heart (dev/LOG.md).

| judged on | accuracy | ECE |
|---|---|---|
| scenes (but of mazes) and menus never seen | {held_out_accuracy:.2%} | {ece:.4f} |

Temperature {temperature:.3f}, fitted on other held-out prompts (ECE without it {ece_uncalibrated:.4f}); the `local`
teacher applies it.

| task | held-out scenes and menus | held-out scenes, all legal options |
|---|---|---|
{by_task}

## What it is not
It does not plan, count or converse. Scenes or options in other words than those of the tasks above give answers that
mean nothing, and confident ones.
"""


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """Write `README.md` into the model's folder from the figures of its training."""
    play = facts["play_accuracy_by_task"]
    by_task = "\n".join(f"| {n} | {a:.2%} | {play[n]:.2%} |" for n, a in facts["held_out_accuracy_by_task"].items())
    values = facts | {"tasks": ", ".join(facts["tasks"]), "by_task": by_task}
    values |= {"seed": facts["config"]["seed"], "steps": facts["config"]["steps"]}
    (folder / "README.md").write_text(_CARD.format(**values))
