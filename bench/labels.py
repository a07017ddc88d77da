"""Scenes labelled per second: our scored choice against IHAC's way, with the same model in the same process.

Ours renders permuted menus, scores the letters of all prompts in batched forward passes and keeps every call in the
store. IHAC's way asks ten times for each scene, one request after the other, and takes the frequencies of the parsed
replies; here each request is a sampled generation that stops at the end of the reply, without a server in between,
which is the fastest form that it has.
"""

import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers

from preceptor.envs.catalog import TASKS, get_task
from preceptor.envs.task import Scene, Task
from preceptor.teacher.asking import AskingTeacher
from preceptor.teacher.labels import LabelStore
from preceptor.teacher.local import LocalModel
from preceptor.teacher.parse import ParseFailure, parse_reply
from preceptor.teacher.prompts import distinct_scenes, load_template, menus

REQUESTS_PER_SCENE = 10  # IHAC's n_ask
_MAX_NEW_TOKENS = 16
_ROUNDS = 3


def ours(model: LocalModel, task: Task, scenes: Sequence[Scene]) -> None:
    """Label scenes as `--teacher local` does, from an empty store."""
    AskingTeacher("local", task, model, load_template(model.template), LabelStore()).label(scenes)


@torch.inference_mode()
def sequential(model: LocalModel, task: Task, scenes: Sequence[Scene]) -> None:
    """Label scenes with ten sampled generations each, one after the other."""
    template = load_template(model.template)
    for scene in scenes:
        prompt = template.render(task, scene, menus(scene, 1)[0])
        counts: Counter[int | ParseFailure] = Counter()
        for _ in range(REQUESTS_PER_SCENE):
            ids = torch.tensor(model.encode([prompt]))
            out = model.network.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                max_new_tokens=_MAX_NEW_TOKENS,
                pad_token_id=model.tokenizer.pad_token_id,
            )
            reply = model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
            counts[parse_reply(reply, prompt.words)] += 1


def _seconds(label: Callable[[LocalModel, Task, Sequence[Scene]], None], *arguments: Any) -> float:
    started = time.perf_counter()
    label(*arguments)
    return time.perf_counter() - started


def main(scenes_per_task: int = 64, sequential_per_task: int = 4) -> dict[str, Any]:
    """Measure both ways over all tasks in turn, print the ratio, and return the figures.

    Args:
        scenes_per_task: Distinct scenes of each task that ours labels in a round.
        sequential_per_task: As many for the slow way.
    """
    torch.set_num_threads(1)
    model, rng = LocalModel(), np.random.default_rng(0)
    work = []
    for name in TASKS:
        task = get_task(name)
        work.append((task, distinct_scenes(task, rng, 2000)[:scenes_per_task]))
    for task, scenes in work[:1]:  # so that neither way starts cold
        ours(model, task, scenes[:4])
        sequential(model, task, scenes[:1])
    rates: dict[str, list[float]] = {"ours": [], "sequential": []}
    for _ in range(_ROUNDS):
        spent = sum(_seconds(ours, model, task, scenes) for task, scenes in work)
        rates["ours"].append(sum(len(scenes) for _, scenes in work) / spent)
        few = [(task, scenes[:sequential_per_task]) for task, scenes in work]
        spent = sum(_seconds(sequential, model, task, scenes) for task, scenes in few)
        rates["sequential"].append(sum(len(scenes) for _, scenes in few) / spent)
    result = {
        "ours_scenes_per_second": median(rates["ours"]),
        "sequential_scenes_per_second": median(rates["sequential"]),
        "ratio": median(a / b for a, b in zip(rates["ours"], rates["sequential"], strict=True)),
        "permutations": 4,
        "requests_per_scene": REQUESTS_PER_SCENE,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "model": model.name},
        "python": platform.python_version(),
    }
    print(
        f"labels: {result['ours_scenes_per_second']:.0f} scenes/s scored in batches (4 menu orders each), "
        f"{result['sequential_scenes_per_second']:.1f} scenes/s with {REQUESTS_PER_SCENE} sequential requests each: "
        f"{result['ratio']:.0f} times (torch {torch.__version__}, transformers {transformers.__version__})"
    )
    return result


if __name__ == "__main__":
    main()
