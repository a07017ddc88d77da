"""The reader of missions: words and what is done of them -> what is to be done next, clause by clause.

What a mission of two clauses teaches must hold for longer ones. So a mission is taken apart by gates that are learned
from option labels alone, and counted: at which words a clause begins, at which one the other part of a "then" or
"after", and whether that part comes first. Each clause is then read by itself, by the same weights wherever it stands.

How many clauses a mission has is known, and which of them are done. So gates compete: as many of them open as there are
clauses after the first.
"""

import torch
from torch import Tensor, nn

from preceptor.envs.missions.levels import ABSENT
from preceptor.envs.missions.mission import MOST_CLAUSES, VERBS
from preceptor.envs.missions.reading import COLOURS, PLACES_OF
from preceptor.envs.missions.vocabulary import LENGTH, VOCABULARY

COLOUR_COUNT = 1 + len(COLOURS)
_MISSION_KINDS = 5  # of `KINDS_OF`: missions name no doors by their state
_WIDTH, _LAYERS, _HEADS = 64, 2, 4
_TOGETHER = 64  # missions that are read at once
_AROUND = 3  # words on each side that a gate sees
_DROPPED = 0.1  # share of words that gates do not see while they learn
_COST = 0.02  # of a second part, in the unit of the loss: else clauses that may come in any order would be in two
_APART = 3  # words on each side within which no other clause begins
_ROUNDS, _PRESSED = 8, 4.0  # how often logits of gates that are too near to each other are lowered, and how much
_FURTHEST, _HALVINGS = 30.0, 25  # to which logits are moved, and how often the range is halved
_KNOWN = 20_000  # readings that are kept
_NEXT_TO_NOTHING = 1e-6  # instead of a weight of 0, whose logarithm would be infinite
_NOT_THERE = 1e-3  # the weight of a clause without words; a done one has less, so that it never decides
_NEVER = -1e4  # a score that leaves no weight, finite so that rows of padding stay numbers


class Reader(nn.Module):
    """Words and flags -> clauses as logits over verbs, colours, kinds and places, and which of them are next.

    Where gradients are wanted, the words of a mission are at random positions, in order (Ruoss et al., 2023), so that
    longer missions than those that were seen have none that is new; else at the mean of these. The gates of the order
    are drawn, too, from relaxed Bernoulli distributions (Maddison et al., 2017): undecided ones would not do for
    missions that join their clauses in several ways.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(VOCABULARY), _WIDTH, padding_idx=0)
        self.place = nn.Embedding(LENGTH, _WIDTH)
        self.marks = nn.Conv1d(_WIDTH, 4, 2 * _AROUND + 1, padding=_AROUND)
        self.layers = nn.ModuleList([_Layer() for _ in range(_LAYERS)])
        self.sizes = (len(VERBS), *2 * (COLOUR_COUNT, _MISSION_KINDS, len(PLACES_OF)))
        self.queries = nn.Parameter(0.1 * torch.randn(len(self.sizes), _WIDTH))
        self.acts, self.names = _Attention(), _Attention()
        self.norm = nn.LayerNorm(_WIDTH)
        self.heads = nn.ModuleList([nn.Linear(_WIDTH, size) for size in self.sizes])
        self._weights, self._known = list[object](), dict[bytes, Tensor]()  # what was read, and with which weights
        self.later = nn.Parameter(torch.ones(()))  # how much less a clause is turned to for each one before it

    def forward(self, words: Tensor, done: Tensor) -> list[Tensor]:
        """What is to be done next.

        Args:
            words: int64 [N, L], zero after the last one.
            done: float [N, 4], whether each clause is done (1) or `ABSENT`, in the order in which they are to be done.

        Returns:
            The logarithm of how far each of 4 clauses is to be done now, [N, 4], in the order of the words; then its
            log-probabilities [N, 4, size] of each of `sizes`.
        """
        if torch.jit.is_tracing():  # an export reads all at once, and each as long as any may be
            return self._read(words, done)
        if torch.is_grad_enabled() or not len(words):
            return self._read_in_parts(words, done)
        return self._remembered(words, done)

    def _remembered(self, words: Tensor, done: Tensor) -> list[Tensor]:
        """As `_read_in_parts`, but nothing is read twice: in play most of it was read a step before."""
        assert self.marks.bias is not None
        # Values tell copies and checkpoints apart, versions what has learned
        versions = sum(weight._version for weight in self.parameters())
        weights = [words.device, versions, *self.marks.bias.tolist(), self.later.item()]
        if weights != self._weights or len(self._known) > _KNOWN:
            self._weights, self._known = weights, {}
        known = self._known
        keys = [row.tobytes() for row in torch.cat([words, done.to(words.dtype)], 1).short().cpu().numpy()]
        new = {key: row for row, key in enumerate(keys) if key not in known}
        if new:
            rows = list(new.values())
            read = self._read_in_parts(words[rows], done[rows])
            known |= zip(new, torch.cat([part.flatten(1) for part in read], 1), strict=True)
        widths = [MOST_CLAUSES * size for size in (1, *self.sizes)]
        due, *said = torch.stack([known[key] for key in keys]).split(widths, 1)
        return [due, *(part.unflatten(1, (MOST_CLAUSES, -1)) for part in said)]

    def _read_in_parts(self, words: Tensor, done: Tensor) -> list[Tensor]:
        order = (words > 0).sum(1).argsort()  # within a batch all missions are as long as the longest
        cost = _COST / max(1, len(words))
        parts = [self._read(_cut(words[rows]), done[rows], cost) for rows in order.split(_TOGETHER)]
        back = order.argsort()
        return [torch.cat(part)[back] for part in zip(*parts, strict=True)]

    def _read(self, words: Tensor, done: Tensor, cost: float = 0.0) -> list[Tensor]:
        padding = words == 0
        embedded = self.embed(words)
        clause, turned, back = self._gates(embedded, padding, (done < ABSENT).sum(1, keepdim=True) - 1, cost)
        member = _overlap(clause[..., None], torch.arange(MOST_CLAUSES, device=words.device))  # [N, L, 4]
        member = member.masked_fill(padding[..., None], 0.0)
        weight = _next(member, turned, back, done.clamp(max=1)) + _NOT_THERE * (1 - member.amax(1))
        due = weight.clamp(min=_NEXT_TO_NOTHING).log() - self.later * (weight.cumsum(1) - weight)

        places = _drawn(padding) if torch.is_grad_enabled() else _spaced(padding)
        seen = embedded + self.place(places)
        same = _scores(_overlap(clause[:, :, None], clause[:, None]), padding[:, None])
        for layer in self.layers:
            seen = layer(seen, same)
        inside = _scores(member.transpose(1, 2), padding[:, None])
        queries = self.queries[:, None].expand(-1, MOST_CLAUSES, -1)

        def found(attention: _Attention, queries: Tensor, values: Tensor) -> Tensor:
            """What each query [Q, 4, W] finds in each clause, [N, Q, 4, W]."""
            asking = queries.flatten(0, 1).expand(words.shape[0], -1, -1)
            scores = inside.repeat(1, queries.shape[0], 1)
            return attention(asking, seen, values, scores).unflatten(1, (-1, MOST_CLAUSES))

        # Verbs are read off words in their context; things off words themselves, at which the context only points, so
        # that a colour and a kind mean the same in every pair.
        said = torch.cat([found(self.acts, queries[:1], seen), found(self.names, queries[1:], embedded)], 1)
        said = self.norm(said + queries)
        return [due, *(head(said[:, i]).log_softmax(-1) for i, head in enumerate(self.heads))]

    def _gates(self, embedded: Tensor, padding: Tensor, more: Tensor, cost: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of words [N, L] the number of the clause that each is in, and how far it is in the second part, both [N, L];
        and how far that part comes first [N, 1].

        Args:
            embedded: [N, L, W].
            padding: [N, L].
            more: [N, 1], how many clauses there are after the first.
            cost: Of a second part, which is added to the loss.
        """
        near = nn.functional.dropout1d(embedded, _DROPPED, torch.is_grad_enabled())
        begins, turns, opens, says = self.marks(near.transpose(1, 2)).unbind(1)
        first = torch.arange(padding.shape[1], device=padding.device) == 0  # its word is in clause 0
        begins = _opened(begins.masked_fill(padding | first, _NEVER), more)
        turns = begins * _relaxed(turns)
        if turns.requires_grad:
            turns.register_hook(lambda gradient: gradient + cost)
        # Whether the second part comes first is said where the mission begins, as "after", or where it turns
        says = opens[:, :1] + (turns.detach() * says).sum(1, keepdim=True)
        return begins.cumsum(1), turns.cumsum(1).clamp(max=1), _relaxed(says)


class _Attention(nn.Module):
    """Attention with several heads, whose scores are added to."""

    def __init__(self) -> None:
        super().__init__()
        self.asks, self.keys, self.gives, self.out = (nn.Linear(_WIDTH, _WIDTH) for _ in range(4))

    def forward(self, asking: Tensor, keys: Tensor, values: Tensor, scores: Tensor) -> Tensor:
        """Found [N, Q, W] for what asks [N, Q, W], among L keys and values [N, L, W], with scores [N, Q, L]."""
        parts = self.asks(asking), self.keys(keys), self.gives(values)
        asked, keys, values = (part.unflatten(-1, (_HEADS, -1)).transpose(1, 2) for part in parts)
        found = nn.functional.scaled_dot_product_attention(asked, keys, values, attn_mask=scores[:, None])
        return self.out(found.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _Layer(nn.Module):
    """A layer of a transformer, normalised first."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norms = _Attention(), nn.ModuleList([nn.LayerNorm(_WIDTH) for _ in range(2)])
        self.wide = nn.Sequential(nn.Linear(_WIDTH, 2 * _WIDTH), nn.ReLU(), nn.Linear(2 * _WIDTH, _WIDTH))

    def forward(self, words: Tensor, scores: Tensor) -> Tensor:
        """Words [N, L, W] in their context, for which scores [N, L, L] are added."""
        normed = self.norms[0](words)
        words = words + self.attention(normed, normed, normed, scores)
        return words + self.wide(self.norms[1](words))


def _next(member: Tensor, turned: Tensor, back: Tensor, done: Tensor) -> Tensor:
    """How far each clause [N, 4] is to be done now: there, not done, and in the part that is next.

    Args:
        member: [N, L, 4], how far each word is in each clause.
        turned: [N, L], how far it is in the second part.
        back: [N, 1], how far that part comes first.
        done: [N, 4], in the order in which clauses are to be done; absent ones count as done.
    """
    there, size = member.amax(1), member.sum(1).clamp(min=_NEXT_TO_NOTHING)
    second = (member * turned[..., None]).sum(1) / size
    ahead, behind = ((there * part).sum(1, keepdim=True) for part in (1 - second, second))
    number = torch.arange(MOST_CLAUSES, device=done.device)
    turn = number + back * ((1 - second) * behind - second * ahead)  # of each clause, when it is to be done
    over = (done[:, None] * _overlap(turn[..., None], number)).sum(-1)
    early = (1 - second) * (1 - back) + second * back
    left = (there * early * (1 - over)).amax(1, keepdim=True)  # of the part that is first
    return there * (1 - over) * (early + (1 - early) * (1 - left))


def _cut(words: Tensor) -> Tensor:
    """Missions [N, L], as long as the longest of them."""
    return words[:, : max(1, int((words > 0).any(0).sum()))]


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """1 for the same clause number, falling to 0 for the next one."""
    return (1 - (one - other).abs()).relu()


def _scores(weights: Tensor, padding: Tensor) -> Tensor:
    """What is added to the scores of attention, so that words count by their weights and padding does not."""
    return weights.clamp(min=_NEXT_TO_NOTHING).log().masked_fill(padding, _NEVER)


def _relaxed(logits: Tensor) -> Tensor:
    """Gates of their logits; where gradients are wanted, with logistic noise, as samples."""
    if not torch.is_grad_enabled():
        return logits.sigmoid()
    return (logits + torch.rand_like(logits).logit(eps=_NEXT_TO_NOTHING)).sigmoid()


def _opened(logits: Tensor, count: Tensor) -> Tensor:
    """Gates [N, L], of which as many as `count` [N, 1] are open in all, and one among so many words as a clause has.

    Missions of two clauses teach that one begins at "and also". They do not teach that two do not begin there, while
    "after" gets none.
    """
    crowded, window = torch.zeros_like(logits), 2 * _APART + 1
    shared = torch.jit.is_tracing() or bool((count > 1).any())  # one clause has nothing to share with others
    with torch.no_grad():
        for _ in range(_ROUNDS if shared else 0):
            near = nn.functional.avg_pool1d(_moved(logits - crowded, count)[:, None], window, 1, _APART)[:, 0] * window
            crowded += _PRESSED * (near - 1).relu()
    return _moved(logits - crowded, count)


def _moved(logits: Tensor, count: Tensor) -> Tensor:
    """Gates [N, L] whose sum is `count` [N, 1]: all logits of a row are moved alike.

    How far is found by bisection; one step of Newton's method more has its gradient.
    """
    low, high = (torch.full_like(logits[:, :1], end) for end in (-_FURTHEST, _FURTHEST))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        many = (logits.detach() + middle).sigmoid().sum(1, keepdim=True) > count
        low, high = torch.where(many, low, middle), torch.where(many, middle, high)
    gates = (logits + low).sigmoid()
    slope = (gates * (1 - gates)).sum(1, keepdim=True).detach().clamp(min=_NEXT_TO_NOTHING)
    return (logits + low - (gates.sum(1, keepdim=True) - count) / slope).sigmoid()


def _drawn(padding: Tensor) -> Tensor:
    """Positions int64 [N, L] of words, by chance and in order; those of padding [N, L], the last ones, say nothing."""
    drawn = torch.rand(padding.shape[0], LENGTH, device=padding.device).argsort(1)[:, : padding.shape[1]]
    return drawn.masked_fill(padding, LENGTH - 1).sort(1)[0]


def _spaced(padding: Tensor) -> Tensor:
    """The means of `_drawn`, which depend on nothing but the number of the mission's own words."""
    count, ranks = (~padding).sum(1, keepdim=True), torch.arange(1, padding.shape[1] + 1, device=padding.device)
    return (ranks * (LENGTH + 1) / (count + 1) - 1).round().long().clamp(max=LENGTH - 1)
