"""What the folder of a model says of it, for all who have to know; nothing heavy is here."""

import json
from pathlib import Path
from typing import Any

TINY_MODEL = Path(__file__).resolve().parent / "tiny_lm" / "model"
CARD_FILE = "preceptor.json"


def card_of(folder: Path | str) -> dict[str, Any]:
    """What a model that was trained here says of itself: how it is to be asked (`prompt`, or `teacher_by`, and a
    `task`), its temperature, its tasks. Empty for any other model."""
    try:
        card = json.loads((Path(folder) / CARD_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}
