"""Prompts that begin alike, read together, against each read by itself."""

import numpy as np
import pytest
import torch

from preceptor.envs.catalog import get_task
from preceptor.teacher.local import LocalModel
from preceptor.teacher.packing import ROW_TOKENS, packed
from preceptor.teacher.prompts import distinct_scenes, load_template, menus

MODEL = LocalModel()
pytestmark = pytest.mark.usefixtures("one_thread")


def prompts() -> list[list[int]]:
    task, template = get_task("ColoredDoorKey"), load_template("compact")
    scenes = distinct_scenes(task, np.random.default_rng(0), 60)
    return MODEL.encode([template.render(task, scene, menu) for scene in scenes for menu in menus(scene, 4)])


def drawn(rng: np.random.Generator) -> list[list[int]]:
    """Prompts that share beginnings, are each other's beginnings, or equal, or as long as a row and longer."""
    of_three = [rng.integers(5, 8, rng.integers(1, 12)).tolist() for _ in range(60)]
    long = rng.integers(5, MODEL.network.config.vocab_size, ROW_TOKENS + 40).tolist()
    return [*of_three, *of_three[:5], long, long[:-1], long[:ROW_TOKENS], [*long[:ROW_TOKENS], 3], [9]]


@pytest.mark.parametrize("which", ["task", "drawn"])
@pytest.mark.parametrize("limit", [64, 1_024])
def test_they_are_read_as_alone(which: str, limit: int) -> None:
    tokens = prompts() if which == "task" else drawn(np.random.default_rng(0))
    seen = list[int]()
    for pack in packed(tokens, limit):
        assert pack.ids.shape[0] == 1 or pack.ids.numel() <= limit
        found = MODEL._letters(pack.read(MODEL.network.base_model))
        for i, row in zip(pack.prompts, found, strict=True):
            torch.testing.assert_close(row, MODEL.letter_logits([tokens[i]])[0], atol=2e-4, rtol=0)
        seen += pack.prompts
    assert sorted(seen) == list(range(len(tokens)))


def test_what_they_share_is_computed_once() -> None:
    tokens = prompts()
    read = sum(pack.ids.numel() for pack in packed(tokens, 1_024))
    assert read < 0.6 * sum(map(len, tokens))


def test_labels_are_those_of_a_model_that_shares_nothing() -> None:
    task, template = get_task("ColoredDoorKey"), load_template("compact")
    asked = [template.render(task, s, menus(s, 1)[0]) for s in distinct_scenes(task, np.random.default_rng(0), 40)]
    plain, shared = ({i: r for g in m.replies(asked) for i, r in g} for m in (MODEL, LocalModel(shares=True)))
    for i, reply in plain.items():
        assert (shared[i].text, shared[i].tokens) == (reply.text, reply.tokens)
        assert shared[i].scores == pytest.approx(reply.scores, abs=1e-4)
