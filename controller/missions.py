"""Controllers of missions in words: what is read of the words is compared with what is seen, and gives option scores.

A *reader*, a small transformer, says of the words and of what is done already what is to be done next: a verb, and two
descriptions as products of distributions over colour, kind and place. A description is compared with the status of
all of them (`envs/missions/reading.py`), so that a colour and a kind that were never trained together are no harder
than others; and an option is scored by the description that it speaks of.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from preceptor.controller.encoders import Encoded, GridEncoder
from preceptor.controller.network import TrunkConfig
from preceptor.envs.missions.mission import MOST_CLAUSES, VERBS
from preceptor.envs.missions.reading import FACTS, FIRST_TARGET, KINDS_OF, PLACES_OF, TARGETS
from preceptor.envs.missions.vocabulary import LENGTH, VOCABULARY
from preceptor.envs.task import Task

_COLOURS, _KINDS, _PLACES = 7, len(KINDS_OF), len(PLACES_OF)
_BITS = 6  # of a status
_WIDTH, _LAYERS, _HEADS = 64, 2, 4  # of the reader
_READINGS = 2  # what may be done next, where the order does not matter
_BETWEEN = FIRST_TARGET + 2  # scores of the plain options, of going to the object, and of carrying beside the other
_ELSEWHERE = 1  # going to something that the mission does not name
_NEVER = -30.0


class MissionEncoder(GridEncoder):
    """Encodes observations of mission tasks: the map's parts, and what controllers of missions read.

    These are the status of each description, uint8 [N, D], and int16 [N, 4 + 7 + L]: which clauses are done, what else
    is seen (`reading.read`, for no mission), and the numbers of the words.
    """

    def __init__(self, task: Any) -> None:
        super().__init__(task.encoded_shape, told=task.told_columns)
        self._task = task
        self.identity |= {"words": list(VOCABULARY.words)}

    def __call__(self, obs: NDArray) -> Encoded:
        """Encode observations [N, W, H + S, 4]."""
        status, facts, done, words = self._task.sensed(obs)
        told = np.concatenate([done, facts, words], axis=1, dtype=np.int16)
        return Encoded((*super().__call__(obs).parts, status, told))


class Reader(nn.Module):
    """Words and what is done -> what is to be done next, as logits over verbs, colours, kinds and places.

    Positions are drawn at random in training, in order (Ruoss et al., 2023), so that longer missions than those that
    were seen have none that is new.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(VOCABULARY), _WIDTH, padding_idx=0)
        self.place = nn.Embedding(LENGTH, _WIDTH)
        self.done = nn.Linear(MOST_CLAUSES, _WIDTH)
        layer = nn.TransformerEncoderLayer(_WIDTH, _HEADS, 2 * _WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
        self.sizes = (len(VERBS), _COLOURS, 5, _PLACES, _COLOURS, 5, _PLACES)
        self.queries = nn.Parameter(0.1 * torch.randn(_READINGS * len(self.sizes), _WIDTH))
        self.look = nn.MultiheadAttention(_WIDTH, _HEADS, batch_first=True)
        self.norm = nn.LayerNorm(_WIDTH)
        self.heads = nn.ModuleList([nn.Linear(_WIDTH, size) for size in self.sizes])

    def forward(self, words: Tensor, done: Tensor) -> list[Tensor]:
        """Log-probabilities [N, R, size] of each of `sizes`, of words int64 [N, L] and done flags [N, 4]."""
        words = words[:, : max(1, int((words > 0).sum(1).max()))]
        padding = words == 0
        places = torch.arange(words.shape[1], device=words.device).expand_as(words)
        if self.training:
            places = torch.rand(len(words), LENGTH, device=words.device).argsort(1)[:, : words.shape[1]].sort(1)[0]
        flags = self.done(done)[:, None]
        seen = self.layers(self.embed(words) + self.place(places) + flags, src_key_padding_mask=padding)
        queries = self.queries.expand(len(words), -1, -1) + flags
        found = self.norm(self.look(queries, seen, seen, key_padding_mask=padding, need_weights=False)[0] + queries)
        found = found.view(len(words), _READINGS, len(self.sizes), _WIDTH)
        return [head(found[:, :, i]).log_softmax(-1) for i, head in enumerate(self.heads)]


class MissionNetwork(nn.Module):
    """pi(o | s) over options with arguments, with the interface of `ControllerNetwork`.

    Args:
        task: Whose options; those of `MissionTask`.
        config: Its `hidden` is the width of what is between seeing and scoring.
    """

    def __init__(self, options: Sequence[Any], config: TrunkConfig | None = None) -> None:
        super().__init__()
        self.config, self.num_options = config or TrunkConfig(), len(options)
        self.reader = Reader()
        bits = 2 * _BITS
        kinds = _COLOURS * _KINDS
        self.front = nn.Embedding(
            len(TARGETS) // _PLACES + 1, 16
        )  # what is in front, held, and in the way, without place
        inputs = len(VERBS) + bits + 3 * 16 + FACTS + kinds * 2
        self.between = nn.Sequential(
            nn.Linear(inputs, self.config.hidden * 2),
            nn.ReLU(),
            nn.Linear(self.config.hidden * 2, self.config.hidden * 2),
            nn.ReLU(),
        )
        self.scores = nn.Linear(self.config.hidden * 2, _BETWEEN + _ELSEWHERE + 1)
        self.elsewhere = nn.Linear(self.config.hidden * 2, _COLOURS + _KINDS)
        shifts = torch.arange(_BITS)
        self.register_buffer("shifts", shifts, persistent=False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Option logits [N, K] and termination logits [N, K], of what `MissionEncoder` gives and the option before."""
        _, _, status, told, _ = inputs
        told = told.long()
        done, facts, words = told.split([MOST_CLAUSES, FACTS, told.shape[1] - MOST_CLAUSES - FACTS], 1)
        bits = (status[..., None].long() >> self.shifts & 1).float()  # [N, D, 6]
        verb, *parts = self.reader(words, done.float())
        what, beside = self.described(*parts[:3]), self.described(*parts[3:])  # [N, R, D], log
        seen = [each.exp() @ bits for each in (what, beside)]  # [N, R, 6]
        things = [self.front(facts[:, column] // _PLACES + 1) for column in (1, 2, 6)]
        reached = bits[:, ::_PLACES, :2].flatten(1)
        around = torch.cat([*things, facts.clamp(-1, 2).float(), reached], 1)[:, None].expand(-1, _READINGS, -1)
        hidden = self.between(torch.cat([verb.exp(), *seen, around], -1))  # [N, R, H]
        scores, gate = self.scores(hidden).split([_BETWEEN + _ELSEWHERE, 1], -1)
        scores = (scores + gate).flatten(1).log_softmax(1).view_as(scores)
        colour, kind = self.elsewhere(hidden).split([_COLOURS, _KINDS], -1)
        nowhere = torch.full_like(parts[2], _NEVER)
        nowhere[..., 0] = 0.0
        other = self.described(colour.log_softmax(-1), kind.log_softmax(-1), nowhere)
        plain, goto, carry, away = scores.split([FIRST_TARGET, 1, 1, 1], -1)
        gone = torch.logaddexp(goto + what, away + other)
        logits = torch.cat([plain, gone, carry + beside], -1).logsumexp(1)
        ends = torch.cat([torch.ones_like(plain[:, 0]), bits[..., 2], bits[..., 5]], 1)
        return logits, 20.0 * ends - 10.0

    @staticmethod
    def described(colour: Tensor, kind: Tensor, place: Tensor) -> Tensor:
        """Log-probabilities [N, R, D] of all descriptions, of those of their parts; missions name no doors by state."""
        if kind.shape[-1] < _KINDS:
            kind = torch.cat([kind, kind.new_full((*kind.shape[:-1], _KINDS - kind.shape[-1]), _NEVER)], -1)
        both = colour[..., :, None, None] + kind[..., None, :, None] + place[..., None, None, :]
        return both.flatten(-3)
