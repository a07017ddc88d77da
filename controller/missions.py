"""Controllers of missions in words: what is read of the words is compared with what is seen, and gives option scores.

A *reader* (`controller/reader.py`) says of the words and of what is done which clauses are next: of each a verb and two
descriptions as products of distributions over colour, kind and place. A description is compared with the status of
all of them (`envs/missions/reading.py`), so that a colour and a kind that were never trained together are no harder
than others; and an option is scored by the description that it speaks of.
"""

import torch
from torch import Tensor, nn

from preceptor.controller.network import ControllerNetwork, TrunkConfig
from preceptor.controller.reader import COLOUR_COUNT, Reader
from preceptor.envs.missions.mission import MOST_CLAUSES, VERBS
from preceptor.envs.missions.reading import (
    AHEAD,
    BITS,
    FACTS,
    FIRST_TARGET,
    FRONT,
    HERE,
    IN_HAND,
    KINDS_OF,
    LOCK,
    ONWARD,
    PLACES_OF,
)
from preceptor.envs.missions.vocabulary import UNKNOWN

_COLOURS, _KINDS, _PLACES = COLOUR_COUNT, len(KINDS_OF), len(PLACES_OF)
_KEY = KINDS_OF.index("key")
_FRONT, _HERE, _LOCK = (bit.bit_length() - 1 for bit in (FRONT, HERE, LOCK))  # by position
_THING = 16  # numbers per thing that is in front, held or in the way
_ALMOST_NEVER = -30.0  # a log-probability, finite so that it can be added up


class MissionNetwork(ControllerNetwork):
    """pi(o | s) over options with arguments, scored by their parts, instead of a trunk and a head with K outputs.

    Args:
        num_options: K, those of `MissionTask`.
        config: Its `hidden` is half the width of what is between seeing and scoring.
    """

    looks = True

    def __init__(self, num_options: int, config: TrunkConfig | None = None) -> None:
        nn.Module.__init__(self)  # its layers are its own
        self.config, self.num_options = config or TrunkConfig(), num_options
        self.width = width = 2 * self.config.hidden
        self.reader = Reader()
        self.things = nn.Embedding(_COLOURS * _KINDS + 1, _THING)
        inputs = len(VERBS) + 3 * BITS + 3 * _THING + FACTS + 3 * _COLOURS * _KINDS
        self.between = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        # Of plain options; of going to what the mission names, carrying beside it, going elsewhere; of a clause
        self.scores = nn.Linear(width, FIRST_TARGET + 3 + 1)
        self.elsewhere = nn.Linear(width, _COLOURS + _KINDS)
        self.register_buffer("bits", 1 << torch.arange(BITS), persistent=False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Option logits [N, K] and termination logits [N, K], of what `MissionEncoder` gives and the option before.

        An option is over where what is seen says so; the others are chosen anew at each step.
        """
        logits, bits = self.scored(*inputs)[0], self._bits(inputs[2])
        over = torch.cat([torch.ones_like(logits[:, :FIRST_TARGET]), bits[..., _FRONT], bits[..., _HERE]], 1)
        return logits, 2 * over - 1

    def scored(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Option logits [N, K], and features [N, width].

        On a mission with a word that it does not know it abstains: every option is as good as another.
        """
        _, _, status, told, _ = inputs
        done, facts, words = told.long().tensor_split([MOST_CLAUSES, MOST_CLAUSES + FACTS], 1)
        bits = self._bits(status)
        due, verb, *said = self.reader(words, done.float())
        what, beside = described(*said[:3]), described(*said[3:])  # [N, C, D]
        certain = torch.zeros_like(due[..., None])
        key = described(said[0], padded(certain, _KINDS, _KEY), padded(certain, _PLACES))  # of a door that is named
        seen = [each.exp() @ bits for each in (what, beside, key)]  # [N, C, B], of what the mission names
        kinds = facts.div(_PLACES, rounding_mode="floor") + 1  # which exports keep, unlike //
        things = [self.things(kinds[:, column]) for column in (AHEAD, IN_HAND, ONWARD)]
        anywhere = bits[:, ::_PLACES, (0, 1, _LOCK)].flatten(1)  # of each colour and kind, whatever its place
        around = torch.cat([*things, facts.clamp(-1, 2), anywhere], 1)[:, None].expand(-1, MOST_CLAUSES, -1)
        hidden = self.between(torch.cat([verb.exp(), *seen, around], -1))  # [N, C, H]
        *each, clause = self.scores(hidden).split([FIRST_TARGET, 1, 1, 1, 1], -1)
        joint = (torch.cat(each, -1) + clause + due[..., None]).flatten(1).log_softmax(1)
        plain, to_it, beside_it, away = joint.view(*hidden.shape[:2], FIRST_TARGET + 3).split(
            [FIRST_TARGET, 1, 1, 1], -1
        )
        colour, kind = (part.log_softmax(-1) for part in self.elsewhere(hidden).split([_COLOURS, _KINDS], -1))
        other = described(colour, kind, padded(certain, _PLACES))
        goes = torch.logaddexp(to_it + what, away + other)
        logits = torch.cat([plain, goes, beside_it + beside], -1).logsumexp(1)
        unread = (words == UNKNOWN).any(1, keepdim=True)
        return logits.masked_fill(unread, 0.0), (due.softmax(1)[..., None] * hidden).sum(1)

    def _bits(self, status: Tensor) -> Tensor:
        """Statuses int16 [N, D] as numbers, float32 [N, D, B]."""
        return (status[..., None] & self.get_buffer("bits") > 0).float()


def described(colour: Tensor, kind: Tensor, place: Tensor) -> Tensor:
    """Log-probabilities [..., D] of all descriptions, of those of their parts."""
    kind = padded(kind, _KINDS)
    return (colour[..., :, None, None] + kind[..., None, :, None] + place[..., None, None, :]).flatten(-3)


def padded(log_probs: Tensor, size: int, first: int = 0) -> Tensor:
    """Log-probabilities [..., size], those that are given from `first` on, and the others next to nothing."""
    return nn.functional.pad(log_probs, (first, size - first - log_probs.shape[-1]), value=_ALMOST_NEVER)
