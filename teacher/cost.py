"""What asking about a task costs, before it is asked: calls, tokens of prompts and of replies, dollars."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preceptor.envs.task import Scene, Task
from preceptor.teacher.config import TeacherConfig
from preceptor.teacher.prompts import Template, distinct_scenes, estimated_tokens, menus
from preceptor.teacher.scoring import Way, letters

_SAMPLED = 1_000  # scenes
_LETTERS = letters({}, 1)


@dataclass(frozen=True)
class Cost:
    """Calls and tokens for each scene with a choice that was found among the sampled ones, once."""

    scenes: int
    calls: int
    tokens_in: int
    tokens_out: int
    config: TeacherConfig

    @property
    def usd(self) -> float | None:
        """Dollars, where a price is said."""
        prices = (self.config.usd_per_million_in, self.config.usd_per_million_out)
        if all(price is None for price in prices):
            return None
        tokens = (self.tokens_in, self.tokens_out)
        return sum(n * (price or 0.0) for n, price in zip(tokens, prices, strict=True)) / 1e6

    def __str__(self) -> str:
        limit, usd = self.config.max_llm_calls, self.usd
        within = f", though no more than --max-llm-calls {limit:,}" if limit is not None else ""
        price = f", ${usd:,.4f}" if usd is not None else ""
        return (
            f"{_SAMPLED:,} sampled situations are {self.scenes:,} scenes to ask about: {self.calls:,} calls, about "
            f"{self.tokens_in:,} tokens of prompts and at most {self.tokens_out:,} of replies{price}; a run that meets "
            f"more scenes makes more calls{within}"
        )


def cost_of(
    task: Task,
    template: Template,
    config: TeacherConfig,
    way: Way = _LETTERS,
    samples: int = 1,
    scenes: Sequence[Scene] | None = None,
) -> Cost:
    """The cost of asking about a task.

    Args:
        task: The task.
        template: Words the prompts.
        config: Menu orders, prices and limits.
        way: How a server is asked, of which the requests are counted.
        samples: Calls for each menu.
        scenes: Those that are asked about; some that are sampled if not given.
    """
    scenes = distinct_scenes(task, np.random.default_rng(0), _SAMPLED) if scenes is None else scenes
    prompts = [template.render(task, scene, menu) for scene in scenes for menu in menus(scene, config.permutations)]
    asked = [prompt for prompt in prompts for _ in range(samples)]
    calls = tokens_in = tokens_out = 0
    for positions in way.groups(asked):
        for body, counted in way.requests([asked[i] for i in positions]):
            texts = body.get("prompt", body.get("messages"))
            calls += counted
            tokens_in += estimated_tokens(texts)
            replies = len(texts) if "prompt" in body and isinstance(texts, list) else body.get("n", 1)
            tokens_out += body["max_tokens"] * replies
    return Cost(len(scenes), calls, tokens_in, tokens_out, config)
