"""`labels prompt`: what a language model would be sent for a scene. Nothing is sent."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from agent.labels.config import PromptConfig
from envs.catalog import get_task
from teacher.prompts import Prompt, load_template, menus

_CHARACTERS_PER_TOKEN = 4  # of English, for most tokenizers


def dry_run(config: PromptConfig) -> dict[str, Any]:
    """The scene, the prompts of all its menu orders, and about how many tokens they are."""
    task = get_task(config.task, config.teacher_flaw)
    scene = task.sample_scenes(np.random.default_rng(config.seed), config.index + 1)[config.index]
    template = load_template(config.prompt)
    # No model is asked about a scene in which only one option is legal.
    orders = menus(scene, config.permutations) if len(scene.legal) > 1 else ()
    prompts = [template.render(task, scene, menu) for menu in orders]
    tokens, counted = _tokens(prompts, built_in=template.name == "compact")
    return {
        "task": task.name,
        "seed": config.seed,
        "index": config.index,
        "facts": scene.facts,
        "scene": scene.text,
        "legal": [task.options[option].id for option in scene.legal],
        "template": template.name,
        "prompt": template.hash_for(task),
        "prompts": [
            {"menu": [task.options[option].id for option in prompt.menu.options], "messages": prompt.chat, "tokens": n}
            for prompt, n in zip(prompts, tokens, strict=True)
        ],
        "tokens": sum(tokens),
        "counted": counted,
    }


def _tokens(prompts: Sequence[Prompt], built_in: bool) -> tuple[list[int], str]:
    """Tokens of each prompt, and how they were counted."""
    if built_in and prompts:
        from teacher.local import LocalModel

        return [len(ids) for ids in LocalModel().encode(prompts)], "by the built-in model's tokenizer"
    lengths = [sum(len(content) for _, content in prompt.messages) for prompt in prompts]
    return [-(-length // _CHARACTERS_PER_TOKEN) for length in lengths], f"characters/{_CHARACTERS_PER_TOKEN}"
