"""Runs that differ in their seeds alone, as one program on a GPU (`Method.join`): they take their rounds in turn."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from preceptor.agent.config import TrainConfig
from preceptor.agent.train import Runner, opened
from preceptor.ground.errors import UserError


def train_together(configs: Sequence[TrainConfig]) -> list[dict[str, Any]]:
    """Train the run of each; their result lines. Runs that are behind catch up before they join the others.

    Raises:
        UserError: A run could not be opened, and none was begun; or one failed, and the others came to their end.
    """
    with contextlib.ExitStack() as stack:
        runners = _opened(configs, stack)
        results = {runner: runner.run.results() for runner in runners if runner.complete}
        going, failed = [runner for runner in runners if runner not in results], dict[Runner, UserError]()
        while going:
            last = min(runner.steps for runner in going)
            behind = [runner for runner in going if runner.steps == last]
            until = min((runner.steps for runner in going if runner.steps > last), default=math.inf)
            behind[0].method.join([runner.method for runner in behind[1:]])
            with contextlib.nullcontext() if configs[0].quiet else behind[0].log.shown():
                while behind and behind[0].steps < until:
                    for runner in behind:
                        _take_round(runner, results, failed)
                    behind = [runner for runner in behind if runner not in results | failed]
            going = [runner for runner in going if runner not in results | failed]
    for runner, error in failed.items():
        raise UserError(f"Seed {runner.config.seed}: {error.what}", error.next_step) from error
    return [results[runner] for runner in runners]


def _opened(configs: Sequence[TrainConfig], stack: contextlib.ExitStack) -> list[Runner]:
    """Each run where it stands, all of them or none."""
    runners = []
    with contextlib.ExitStack() as beginning:
        for config in configs:
            runners.append(stack.enter_context(opened(replace(config, quiet=True))))
            beginning.enter_context(runners[-1].run.beginning())
    return runners


def _take_round(runner: Runner, results: dict[Runner, dict[str, Any]], failed: dict[Runner, UserError]) -> None:
    try:
        runner.advance()
        if not runner.going:
            results[runner] = runner.conclude()
    except UserError as error:
        runner.log.warn(f"seed {runner.config.seed}: {error.what}")
        failed[runner] = error
