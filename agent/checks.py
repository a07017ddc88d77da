"""What no run could honour is refused before anything slow happens. Nothing heavy is imported here."""

import re

from agent.config import CHOICES, EvalConfig, TrainConfig
from ground.errors import UserError, unknown_name


def check(config: TrainConfig | EvalConfig) -> None:
    """Refuse what no run could honour. Raises `UserError` with the nearest right choice."""
    for field, known in CHOICES.items():
        value = getattr(config, field, None)
        if value is not None and value.partition(":")[0] not in known:  # shuffled:NAME is a teacher too
            verb = "train" if isinstance(config, TrainConfig) else "eval"
            raise unknown_name(field, value, known, f"python main.py {verb} --help")
    at_least = {"steps": 1, "num_envs": 1, "threads": 1, "batch": 1, "permutations": 1, "seed": 0, "eval_episodes": 0}
    at_least |= {"max_llm_calls": 0, "max_llm_tokens": 0, "max_llm_seconds": 0, "samples": 1, "concurrency": 1}
    at_least |= {"memory": 1, "ahead": 0, "video": 0, "margin": 0, "label_noise": 0}
    for field, least in at_least.items():
        value = getattr(config, field, None)
        if value is not None and value < least:
            raise UserError(f"--{field} is {value}, and must be at least {least}.", "give another number")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.device):
        raise UserError(f"--device {config.device} is not known.", "--device cpu, cuda, cuda:1 and so on, or auto")
    for field in ("margin", "label_noise"):
        if (getattr(config, field) or 0) > 1:
            raise UserError(f"--{field} is {getattr(config, field)}, and is a probability.", "a number from 0 to 1")
    if isinstance(config, EvalConfig):
        _ = config.levels, config.players
        return
    if not re.fullmatch(r"[^/\\]+(/seed-\d+)?", config.savedir) or config.savedir in (".", ".."):
        raise UserError(
            f"--savedir {config.savedir!r} is not a name for a run.",
            "--savedir first, and --logdir PATH for another place",
        )
    known = ("truth", "controller", "teacher", "person")
    for name in config.oracles or ("",):
        if name not in known:
            raise unknown_name("oracle", name, known, f"--oracle {', '.join(known)}")
    if config.stop_error is not None and not 0 < config.stop_error < 1:
        raise UserError(f"--stop-error {config.stop_error} is not between 0 and 1.", "--stop-error 0.02")
    if config.method in ("ppo", "sac", "td3") and config.controller:
        raise UserError(
            f"--method {config.method} has no place for a controller.", "--method ihac, or leave --controller out"
        )
    if config.exploration != "steps" and config.method not in ("sac", "td3"):
        raise UserError(
            f"--exploration {config.exploration} is for flat agents, and {config.method} explores in its own way.",
            "--method sac, or leave --exploration out",
        )
    if config.low_level and (config.method != "hiro" or config.high_level == "controller"):
        raise UserError(
            "A low level that learns no more leaves nothing to learn here.", "--method hiro --high-level learned"
        )
    if config.method == "hiro" and config.controller and not config.plans:
        raise UserError(
            "A controller is given, and nothing asks for it.", "--prior controller, or --high-level controller"
        )
    if config.prior != "none" and config.high_level == "controller":
        raise UserError(
            f"--prior {config.prior} is for a high level that learns, and here the controller is the high level.",
            "--high-level learned, or leave --prior out",
        )
    if config.method == "dagger" and config.student == "flat":
        raise UserError("--method dagger distils a controller, and a flat student has none.", "--method ihac")
    if config.on_teacher_failure == "controller" and config.student == "flat":
        raise UserError("A flat student has no controller to stand in.", "--on-teacher-failure hold")
    if len(set(config.seeds)) != len(config.seeds) or any(seed < 0 for seed in config.seeds):
        raise UserError(f"--seeds {config.seeds} must be distinct and not negative.", "--seeds 0 1 2")
