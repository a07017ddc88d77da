"""Calls as lines of JSON, to carry labels from one store to another, to publish them, and to read them elsewhere.

Every line stands by itself, so that files may be concatenated, filtered and cut at line ends. A line holds the row as
it is in the store and the row's key; what it says is checked before it is believed.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from preceptor.ground.errors import UserError
from preceptor.ground.sealed import plain_text
from preceptor.teacher.call import FALLBACK, FIELDS, OK, Call

MARK = "preceptor-label"
SCHEMA = 1
_KEYS = frozenset((MARK, "key", *FIELDS))
_LAST_YEAR = 253_402_300_800  # Unix time at the end of the year 9999
_TOLERANCE = 1e-4  # of the sum of probabilities
_CALL = TypeAdapter(Call)


def to_record(call: Call) -> dict[str, Any]:
    """A call as JSON types, with its key and the mark of the format."""
    return {MARK: SCHEMA, "key": call.key, **{name: getattr(call, name) for name in FIELDS}}


def from_lines(lines: Iterable[bytes], source: str, sizes: Mapping[str, int] | None = None) -> list[Call]:
    """The calls of the lines of a file `source`; blank lines are passed over.

    `sizes` are numbers of options by the digest of an option space, for those that are known.

    Raises:
        UserError: A line is foreign, of a newer version, or damaged; the error gives its number.
    """
    calls = []
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = plain_text(line, source)
        if line.strip():
            try:
                calls.append(_from_line(line, sizes or {}))
            except (_Refused, ValueError) as error:
                what = str(error) if isinstance(error, _Refused) else f"it is no line of JSON: {error}"
                raise UserError(
                    f"{source}, line {number}, cannot be imported: {what}.",
                    f"sed -n {number}p {source}  # look at the line; nothing of the file was imported",
                ) from error
    return calls


class _Refused(Exception):
    """What is wrong with a line."""


def _from_line(line: bytes, sizes: Mapping[str, int]) -> Call:
    record = from_json(line)
    if not isinstance(record, dict) or MARK not in record:
        raise _Refused(f"it is foreign, without {MARK!r}: it does not come from `labels export`")
    if record[MARK] != SCHEMA:
        raise _Refused(f"it has label schema {record[MARK]!r}, and this version reads {SCHEMA}: update preceptor")
    if record.keys() != _KEYS:
        raise _Refused(f"it is damaged: fields {sorted(record.keys() ^ _KEYS)} are missing or unknown")
    try:
        said = {name: record[name] for name in FIELDS}
        call = _CALL.validate_json(to_json(said, inf_nan_mode="constants"), strict=True)
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        raise _Refused(f"it is damaged: {field!r} is {json.dumps(record[field])[:60]}") from error
    if damage := next(_damages(call, record["key"], sizes.get(call.options)), None):
        raise _Refused(f"it is damaged: {damage}")
    return call


def _damages(call: Call, key: Any, size: int | None) -> Iterator[str]:
    """What no teacher writes: an answer that is no distribution over `size` options, or over what was not asked."""
    menu, probs = call.menu, call.probs
    if call.key != key:
        yield "its key is not that of what was asked"
    if not 0 < call.created < _LAST_YEAR:
        yield "its date is none"
    if probs and (len(probs) != size if size else len(probs) <= max((*menu, *call.legal), default=0)):
        yield f"{len(probs)} probabilities are not those of the task's options"
    if call.status == OK:
        positive = {option for option, probability in enumerate(probs) if probability > 0}
        if len(set(menu)) != len(menu) or not positive <= set(menu) <= set(call.legal):
            yield "its menu, its legal options and its probabilities do not belong together"
        if (menu or probs) and abs(math.fsum(probs) - 1) > _TOLERANCE:  # without a menu, the reply is the answer
            yield f"its probabilities sum to {math.fsum(probs):.6g}"
    elif probs and call.status != FALLBACK:
        yield f"it has probabilities, and its status {call.status!r} is that of no answer"
