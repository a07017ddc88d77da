"""JSON that carries a digest of itself, so that a flipped bit is not read as something else; and JSON from elsewhere.

A sealed object, a file or a line of one, has the key `sha256`: the first 16 digits of the SHA-256 of all else in it, as
JSON with sorted keys. What earlier versions wrote has no seal; a file's schema says whether it must have one.
"""

import codecs
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preceptor.ground.errors import UserError

SEAL = "sha256"
_DIGITS = 16
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # those of UTF-32 begin or end with them


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its seal."""
    plain = json.loads(json.dumps(value))  # as it will be read: keys are text, tuples are lists
    plain.pop(SEAL, None)
    return plain | {SEAL: digest_of(plain)}


def unsealed(value: Any, *, required: bool) -> dict[str, Any]:
    """An object without its seal. Raises `ValueError` if that is broken, or missing where it is required."""
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    plain = {key: item for key, item in value.items() if key != SEAL}
    if (required or SEAL in value) and value.get(SEAL) != digest_of(plain):
        raise ValueError("its digest is not that of what it says")
    return plain


def parsed(data: bytes | str) -> Any:
    """JSON of any encoding that begins with its mark, or UTF-8. Raises `ValueError` if it is none, or too deep."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def plain_text(data: bytes, source: str | Path) -> bytes:
    """Text from elsewhere without a mark of UTF-8 at its beginning. Raises `UserError` if it is UTF-16 or UTF-32."""
    if data.startswith(_WIDE) or b"\0" in data[:4]:
        to = f"iconv -f UTF-16 -t UTF-8 {source} > {source}.utf8  # then give {source}.utf8"
        raise UserError(f"{source} is UTF-16 or UTF-32, and must be UTF-8.", to)
    return data.removeprefix(codecs.BOM_UTF8)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(plain: Any) -> str:
    """16 digits of the SHA-256 of what JSON can hold. Raises `ValueError` if it is nested too deeply."""
    try:
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:_DIGITS]
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
