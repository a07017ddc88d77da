"""Controllers of missions in words: what is read of the words is compared with what is seen, and gives option scores.

A *reader*, a small transformer, says of the words and of what is done already what is to be done next: a verb, and two
descriptions as products of distributions over colour, kind and place. A description is compared with the status of
all of them (`envs/missions/reading.py`), so that a colour and a kind that were never trained together are no harder
than others; and an option is scored by the description that it speaks of.
"""

import torch
from torch import Tensor, nn

from preceptor.controller.network import ControllerNetwork, TrunkConfig
from preceptor.envs.missions.mission import MOST_CLAUSES, VERBS
from preceptor.envs.missions.reading import (
    AHEAD,
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
from preceptor.envs.missions.vocabulary import LENGTH, UNKNOWN, VOCABULARY

_COLOURS, _KINDS, _PLACES = 7, len(KINDS_OF), len(PLACES_OF)
_BITS = LOCK.bit_length()  # of a status
_FRONT, _HERE = FRONT.bit_length() - 1, HERE.bit_length() - 1  # by position
_MISSION_KINDS = 5  # of `KINDS_OF`: missions name no doors by their state
_WIDTH, _LAYERS, _HEADS = 64, 2, 4  # of the reader
_READINGS = 2  # clauses that may be turned to, where their order does not matter
_TOGETHER = 64  # missions that are read at once
_THING = 16  # numbers per thing that is in front, held or in the way
_ALMOST_NEVER = -30.0  # a log-probability, finite so that it can be added up


class Reader(nn.Module):
    """Words and what is done -> what is to be done next, as logits over verbs, colours, kinds and places.

    Where gradients are wanted, the words of a mission are at random positions, in order (Ruoss et al., 2023), so that
    longer missions than those that were seen have none that is new; else at the mean of these.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(VOCABULARY), _WIDTH, padding_idx=0)
        self.place = nn.Embedding(LENGTH, _WIDTH)
        self.done = nn.Linear(MOST_CLAUSES, _WIDTH)
        layer = nn.TransformerEncoderLayer(_WIDTH, _HEADS, 2 * _WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
        self.sizes = (len(VERBS), *2 * (_COLOURS, _MISSION_KINDS, _PLACES))
        self.queries = nn.Parameter(0.1 * torch.randn(_READINGS * len(self.sizes), _WIDTH))
        self.look = nn.MultiheadAttention(_WIDTH, _HEADS, batch_first=True)
        self.norm = nn.LayerNorm(_WIDTH)
        self.heads = nn.ModuleList([nn.Linear(_WIDTH, size) for size in self.sizes])

    def forward(self, words: Tensor, done: Tensor) -> list[Tensor]:
        """Log-probabilities [N, R, size] of each of `sizes`, of words int64 [N, L] and done flags [N, 4]."""
        if not torch.jit.is_tracing():
            words = words[:, : max(1, int((words > 0).any(0).sum()))]
        padding = words == 0
        places = _drawn(padding) if torch.is_grad_enabled() else _spaced(padding)
        flags = self.done(done)[:, None]
        seen = self.layers(self.embed(words) + self.place(places) + flags, src_key_padding_mask=padding)
        queries = self.queries.expand(words.shape[0], -1, -1) + flags
        found = self.norm(self.look(queries, seen, seen, key_padding_mask=padding, need_weights=False)[0] + queries)
        found = found.view(-1, _READINGS, len(self.sizes), _WIDTH)
        return [head(found[:, :, i]).log_softmax(-1) for i, head in enumerate(self.heads)]


class MissionNetwork(ControllerNetwork):
    """pi(o | s) over options with arguments, scored by their parts, instead of a trunk and a head with K outputs.

    Args:
        num_options: K, those of `MissionTask`.
        config: Its `hidden` is half the width of what is between seeing and scoring.
    """

    def __init__(self, num_options: int, config: TrunkConfig | None = None) -> None:
        nn.Module.__init__(self)  # its layers are its own
        self.config, self.num_options = config or TrunkConfig(), num_options
        self.width = width = 2 * self.config.hidden
        self.reader = Reader()
        self.things = nn.Embedding(_COLOURS * _KINDS + 1, _THING)
        inputs = len(VERBS) + 2 * _BITS + 3 * _THING + FACTS + 3 * _COLOURS * _KINDS
        self.between = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        # Of plain options; of going to what the mission names, carrying beside it, going elsewhere; of a reading
        self.scores = nn.Linear(width, FIRST_TARGET + 3 + 1)
        self.elsewhere = nn.Linear(width, _COLOURS + _KINDS)
        self.register_buffer("bits", 1 << torch.arange(_BITS), persistent=False)

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
        verb, *said = _by_length(self.reader, words, done.float())
        what, beside = described(*said[:3]), described(*said[3:])  # [N, R, D]
        seen = [each.exp() @ bits for each in (what, beside)]  # [N, R, B], of what the mission names
        kinds = facts.div(_PLACES, rounding_mode="floor") + 1  # which exports keep, unlike //
        things = [self.things(kinds[:, column]) for column in (AHEAD, IN_HAND, ONWARD)]
        anywhere = bits[:, ::_PLACES, (0, 1, _BITS - 1)].flatten(1)  # of each colour and kind, whatever its place
        around = torch.cat([*things, facts.clamp(-1, 2), anywhere], 1)[:, None].expand(-1, _READINGS, -1)
        hidden = self.between(torch.cat([verb.exp(), *seen, around], -1))  # [N, R, H]
        *each, reading = self.scores(hidden).split([FIRST_TARGET, 1, 1, 1, 1], -1)
        joint = (torch.cat(each, -1) + reading).flatten(1).log_softmax(1)
        plain, to_it, beside_it, away = joint.view(*hidden.shape[:2], -1).split([FIRST_TARGET, 1, 1, 1], -1)
        colour, kind = (part.log_softmax(-1) for part in self.elsewhere(hidden).split([_COLOURS, _KINDS], -1))
        other = described(colour, kind, padded(torch.zeros_like(colour[..., :1]), _PLACES))
        goes = torch.logaddexp(to_it + what, away + other)
        logits = torch.cat([plain, goes, beside_it + beside], -1).logsumexp(1)
        unread = (words == UNKNOWN).any(1, keepdim=True)
        return logits.masked_fill(unread, 0.0), hidden.mean(1)

    def _bits(self, status: Tensor) -> Tensor:
        """Statuses uint8 [N, D] as numbers, float32 [N, D, B]."""
        return (status[..., None] & self.get_buffer("bits") > 0).float()


def _by_length(reader: Reader, words: Tensor, done: Tensor) -> list[Tensor]:
    """What a reader says, of missions of like length together, for within a batch all are as long as the longest."""
    if torch.jit.is_tracing():  # an export reads all at once, and each as long as any may be
        return reader(words, done)  # type: ignore[no-any-return]
    order = (words > 0).sum(1).argsort()
    parts = [reader(words[rows], done[rows]) for rows in order.split(_TOGETHER)]
    back = order.argsort()
    return [torch.cat(part)[back] for part in zip(*parts, strict=True)]


def _drawn(padding: Tensor) -> Tensor:
    """Positions int64 [N, L] of words, by chance and in order; those of padding [N, L], the last ones, say nothing."""
    drawn = torch.rand(len(padding), LENGTH, device=padding.device).argsort(1)[:, : padding.shape[1]]
    return drawn.masked_fill(padding, LENGTH - 1).sort(1)[0]


def _spaced(padding: Tensor) -> Tensor:
    """The means of `_drawn`, which depend on nothing but the number of the mission's own words."""
    count, ranks = (~padding).sum(1, keepdim=True), torch.arange(1, padding.shape[1] + 1, device=padding.device)
    return (ranks * (LENGTH + 1) / (count + 1) - 1).round().long().clamp(max=LENGTH - 1)


def described(colour: Tensor, kind: Tensor, place: Tensor) -> Tensor:
    """Log-probabilities [..., D] of all descriptions, of those of their parts."""
    kind = padded(kind, _KINDS)
    return (colour[..., :, None, None] + kind[..., None, :, None] + place[..., None, None, :]).flatten(-3)


def padded(log_probs: Tensor, size: int) -> Tensor:
    """Log-probabilities [..., size], of which the last ones are next to nothing."""
    return nn.functional.pad(log_probs, (0, size - log_probs.shape[-1]), value=_ALMOST_NEVER)
