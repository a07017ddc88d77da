"""The verbs of `labels`: each config is carried out by one function."""

from typing import Any

from agent.labels.config import Config, ExportConfig, ImportConfig, PromptConfig, ShowConfig
from agent.labels.dry_run import dry_run
from agent.labels.judge import judge
from agent.labels.show import show
from agent.labels.transfer import export_calls, import_calls


def run(config: Config) -> dict[str, Any]:
    """What the verb of that config came to."""
    match config:
        case ShowConfig():
            return show(config)
        case PromptConfig():
            return dry_run(config)
        case ExportConfig():
            return export_calls(config)
        case ImportConfig():
            return import_calls(config)
        case _:
            return judge(config)
