"""Train the tiny model of plans: `python -m preceptor.teacher.tiny_lm.train_plans --out teacher/tiny_lm/plans`.

It is a model of its own, so that no label of the other one changes, and it is trained in the same way.
"""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from tyro.conf import OmitArgPrefixes

from preceptor.teacher.card import CARD_FILE
from preceptor.teacher.local import LocalModel
from preceptor.teacher.tiny_lm.plan_pairs import PREFIX, PlanPair, draw_plan, draw_train
from preceptor.teacher.tiny_lm.train import Config, log, save, train

CARD = Path(__file__).with_name("card_plans.md")
REPLY_TOKENS = 256  # in which every plan fits
DEFAULT = Config(layers=3, steps=1200, batch=32, hold=560, lr=3e-3, judged=300)
_WRITTEN = 250  # plans that are written at once


def plans_written(model: LocalModel, pairs: Sequence[PlanPair]) -> list[str]:
    """What the model writes when it is asked for plans, each token the likeliest."""
    model.tokenizer.padding_side = "left"
    written: list[str] = []
    for start in range(0, len(pairs), _WRITTEN):
        asked = [pair.asked for pair in pairs[start : start + _WRITTEN]]
        told = model.tokenizer(asked, add_special_tokens=False, padding=True, return_tensors="pt")
        ids = told["input_ids"]
        out = model.network.generate(
            ids, attention_mask=told["attention_mask"], do_sample=False, max_new_tokens=REPLY_TOKENS
        )
        written += model.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return written


def judge(model: LocalModel, rng: np.random.Generator, count: int) -> dict[str, dict[str, float]]:
    """Shares of plans written word for word as the rules have them; no mission was trained on.

    Args:
        model: What writes.
        rng: Draws the missions.
        count: How many are said in forms for training, and again in held-out ones.

    Returns:
        "training" and "held-out" -> the share of "all" missions, and of those of "1" to "4" clauses.
    """
    found = {}
    for said, new_words in (("training", False), ("held-out", True)):
        pairs = [draw_plan(rng, held_out=True, new_words=new_words) for _ in range(count)]
        right = np.array([text == pair.reply for text, pair in zip(plans_written(model, pairs), pairs, strict=True)])
        clauses = np.array([len(pair.mission.clauses) for pair in pairs])
        by_clauses = {str(number): float(right[clauses == number].mean()) for number in np.unique(clauses)}
        found[said] = {"all": float(right.mean()), **by_clauses}
    return found


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """Write `README.md` into the model's folder from the figures of its training."""
    rows = [(said, *(f"{share:.1%}" for share in shares.values())) for said, shares in facts["plan_accuracy"].items()]
    by_words = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    (folder / "README.md").write_text(CARD.read_text().format(**facts["config"] | facts, by_words=by_words))


def main(out: Path, config: OmitArgPrefixes[Config] = DEFAULT) -> None:
    """Train, save, judge what was saved, and write the card.

    Args:
        out: Folder for the model.
        config: How.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    started = time.perf_counter()
    tokenizer, model = train(draw_train, config, PREFIX)
    minutes = (time.perf_counter() - started) / 60
    save(tokenizer, model.bfloat16(), out, REPLY_TOKENS)  # half the size, and no plan the worse
    accuracy = judge(LocalModel(out), np.random.default_rng([config.seed, 2]), config.judged)
    facts = {
        "teacher_by": "plan",
        "task": "OneRoom-GoTo",
        "parameters": sum(p.numel() for p in model.parameters()),
        "pairs": config.steps * config.batch,
        "training_minutes": round(minutes, 1),
        "torch": torch.__version__,
        "config": asdict(config),
        "plan_accuracy": accuracy,
    }
    (out / CARD_FILE).write_text(json.dumps(facts, indent=2) + "\n")
    write_card(out, facts)
    log.info(json.dumps(accuracy, indent=2))


if __name__ == "__main__":
    tyro.cli(main)
