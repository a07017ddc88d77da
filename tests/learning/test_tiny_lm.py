"""The tiny language model: what is held out stays out, training learns, and the shipped model is what its card says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from preceptor.envs.catalog import TASKS, TAUGHT, get_task
from preceptor.teacher.calibration import expected_calibration_error
from preceptor.teacher.card import CARD_FILE, TINY_MODEL
from preceptor.teacher.local import LocalModel
from preceptor.teacher.prompts import LETTERS, Menu, load_template, menus
from preceptor.teacher.tiny_lm.pairs import COLOURS, Pair, PairMix, menu_held_out
from preceptor.teacher.tiny_lm.train import Config, accuracy, answers_of, make_mix, menu_logits, save, train
from tests.small_task import SmallTask

SMALL = Config(hidden=64, intermediate=128, layers=2, heads=2, steps=80, batch=16, lr=3e-3, warmup=10, corpus=300)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def mix() -> PairMix:
    return make_mix([get_task(name) for name in TASKS], replace(Config(), scenes=3000))


@pytest.fixture(scope="module")
def shipped() -> LocalModel:
    return LocalModel()


HELD = ("nothing", "red", "green", "blue")


class OneOrder(PairMix):
    """What is held has its letter: learnt in seconds, where to copy letters from permuted menus takes minutes."""

    def __init__(self) -> None:
        self.sources = []

    def draw_train(self, rng: np.random.Generator, count: int) -> list[Pair]:
        task, template = SmallTask(), load_template("compact")
        menu = Menu(tuple(range(len(task.options))))
        scenes = task.sample_scenes(rng, count)
        answers = [HELD.index(scene.facts[-1].removeprefix("held=")) for scene in scenes]
        prompts = [template.render(task, scene, menu) for scene in scenes]
        return [Pair(task.name, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]


def test_training_never_shows_what_is_held_out(mix: PairMix) -> None:
    held_out = {scene.text for source in mix.sources for scene in source.held_out}
    assert held_out
    for pair in mix.draw_train(np.random.default_rng(0), 3000):
        text = pair.prompt.messages[-1][1]
        assert not menu_held_out(pair.prompt.words)
        assert text.split("Scene: ")[1].split("\n")[0] not in held_out


def test_the_answer_of_a_pair_is_the_scripts() -> None:
    task = SmallTask()
    by_text = {scene.text: scene for scene in task.sample_scenes(np.random.default_rng(1), 2000)}
    for pair in make_mix([task], SMALL).draw_train(np.random.default_rng(2), 200):
        scene = by_text[pair.prompt.messages[-1][1].split("Scene: ")[1].split("\n")[0]]
        assert pair.prompt.menu.options[pair.answer] == task.script(scene)


def test_a_short_training_learns_and_the_files_load(tmp_path: Path) -> None:
    mix = OneOrder()
    tokenizer, network = train(mix.draw_train, SMALL)
    save(tokenizer, network, tmp_path)
    (tmp_path / CARD_FILE).write_text(json.dumps({"prompt": "compact", "temperature": 2.0}))
    model = LocalModel(tmp_path)
    assert model.temperature == 2.0
    pairs = mix.draw_train(np.random.default_rng(9), 300)
    learnt = accuracy(menu_logits(model, pairs), answers_of(pairs))
    _, untrained = train(mix.draw_train, replace(SMALL, steps=0))
    save(tokenizer, untrained, tmp_path)
    chance = accuracy(menu_logits(LocalModel(tmp_path), pairs), answers_of(pairs))
    assert learnt > 0.9 > 0.6 > chance


def test_the_shipped_model_is_right_on_what_it_never_saw(mix: PairMix, shipped: LocalModel) -> None:
    rng = np.random.default_rng(11)
    pairs = [source.draw_held_out(rng) for source in mix.sources for _ in range(100)]
    logits = menu_logits(shipped, pairs)
    assert accuracy(logits, answers_of(pairs)) >= 0.97
    probs = (logits / shipped.temperature).softmax(1).numpy()
    assert expected_calibration_error(probs, answers_of(pairs).numpy()) <= 0.03
    coloured = next(source for source in mix.sources if source.task.name == "ColoredDoorKey")
    play = [coloured.draw_play(rng) for _ in range(400)]
    assert accuracy(menu_logits(shipped, play), answers_of(play)) >= 0.95
    mazes = make_mix([get_task(name) for name in TAUGHT if name not in TASKS], replace(Config(), scenes=2000))
    pairs = [source.draw_held_out(rng) for source in mazes.sources for _ in range(100)]
    assert accuracy(menu_logits(shipped, pairs), answers_of(pairs)) >= 0.97


def test_the_shipped_folder_is_small_and_complete(shipped: LocalModel) -> None:
    files = {path.name: path.stat().st_size for path in TINY_MODEL.iterdir()}
    assert sum(files.values()) <= 5_000_000
    assert {"model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json", "README.md"} <= set(files)
    config = json.loads((TINY_MODEL / "config.json").read_text())
    assert config["head_dim"] == 32
    assert config["rope_parameters"]["factor"] == 1.0
    tokenizer = json.loads((TINY_MODEL / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    card = json.loads((TINY_MODEL / CARD_FILE).read_text())
    assert set(card["tasks"]) == set(TAUGHT)
    assert f"{card['held_out_accuracy']:.2%}" in (TINY_MODEL / "README.md").read_text()
    for word in (*LETTERS, *COLOURS):
        assert len(shipped.tokenizer.encode(word, add_special_tokens=False)) == 1
    for text in ("Fetch the ünïcode teapot, 42 times!\n\tNow.", "The red key. A) go to the red key\n", ""):
        assert shipped.tokenizer.decode(shipped.tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_shipped_model_generates_the_letter_and_stops(mix: PairMix, shipped: LocalModel) -> None:
    pair = mix.sources[0].draw_train(np.random.default_rng(4))
    ids = torch.tensor(shipped.encode([pair.prompt]))
    out = shipped.network.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)
    assert shipped.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) == pair.reply
    assert out.shape[1] == ids.shape[1] + 2


def test_scores_do_not_depend_on_the_batch(mix: PairMix, shipped: LocalModel) -> None:
    prompts = [pair.prompt for pair in mix.draw_train(np.random.default_rng(5), 40)]
    together = dict(item for group in shipped.replies(prompts) for item in group)
    for i, prompt in enumerate(prompts[:8]):
        ((_, alone),) = next(shipped.replies([prompt]))
        assert together[i].scores == pytest.approx(alone.scores, abs=1e-5)
        assert sum(alone.scores) == pytest.approx(1.0)


def test_all_prompts_fit_into_the_models_context(mix: PairMix, shipped: LocalModel) -> None:
    template = load_template("compact")
    for source in mix.sources:
        prompts = [
            template.render(source.task, scene, menu) for scene in source.train[:200] for menu in menus(scene, 1)
        ]
        assert max(map(len, shipped.encode(prompts))) < shipped.network.config.max_position_embeddings / 4
