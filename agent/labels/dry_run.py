"""`labels prompt`: what a language model would be sent for a scene. Nothing is sent."""

from typing import Any

import numpy as np

from preceptor.agent.labels.config import PromptConfig
from preceptor.agent.runs.carried import task_of
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.cost import cost_of
from preceptor.teacher.prompts import CHARACTERS_PER_TOKEN, load_template, menus


def dry_run(config: PromptConfig) -> dict[str, Any]:
    """The scene, the prompts of all its menu orders, and about how many tokens they are."""
    task = task_of(config.task, config.logdir, config.teacher_flaw)
    scene = task.sample_scenes(np.random.default_rng(config.seed), config.index + 1)[config.index]
    template = load_template(config.prompt)
    # No model is asked about a scene in which only one option is legal.
    orders = menus(scene, config.permutations) if len(scene.legal) > 1 else ()
    prompts = [template.render(task, scene, menu) for menu in orders]
    if template.name == "compact" and prompts:
        from preceptor.teacher.local import LocalModel

        tokens, counted = [len(ids) for ids in LocalModel().encode(prompts)], "by the built-in model's tokenizer"
    else:
        tokens, counted = [prompt.tokens for prompt in prompts], f"characters/{CHARACTERS_PER_TOKEN}"
    names = [option.id for option in task.options]
    return {
        "task": task.name,
        "seed": config.seed,
        "index": config.index,
        "facts": scene.facts,
        "scene": scene.text,
        "legal": [names[option] for option in scene.legal],
        "template": template.name,
        "prompt": template.hash_for(task),
        "prompts": [
            {"menu": [names[option] for option in prompt.menu.options], "messages": prompt.chat, "tokens": number}
            for prompt, number in zip(prompts, tokens, strict=True)
        ],
        "tokens": sum(tokens),
        "counted": counted,
        "all": str(cost_of(task, template, TeacherConfig("llm", permutations=config.permutations))),
    }
