"""The reader of missions: how words are taken apart into clauses, and which of them are next."""

import copy

import numpy as np
import pytest
import torch

from preceptor.controller import reader as reading
from preceptor.controller.reader import Reader, _drawn, _moved, _next, _opened, _spaced
from preceptor.envs.missions.levels import ABSENT
from preceptor.envs.missions.vocabulary import VOCABULARY

NEXT = [  # clauses of which the words tell in the order a b c d; where the second part begins, and whether it is first
    (4, None, False, "", "abcd"),  # any order
    (2, 1, False, "", "a"),
    (2, 1, False, "a", "b"),
    (2, 1, True, "", "b"),
    (2, 1, True, "b", "a"),
    (3, 2, False, "", "ab"),
    (3, 2, False, "b", "a"),
    (3, 2, False, "ab", "c"),
    (3, 1, True, "", "bc"),
    (3, 1, True, "c", "b"),
    (3, 1, True, "bc", "a"),
    (4, 2, True, "cd", "ab"),
    (4, 2, True, "acd", "b"),
]


@pytest.mark.parametrize(("count", "second", "back", "done", "due"), NEXT)
def test_with_gates_that_are_sure_the_next_clauses_are_those_of_the_order(count, second, back, done, due):
    clauses = torch.arange(count).repeat_interleave(3)  # of three words each
    member = torch.nn.functional.one_hot(clauses, 4).float()[None]
    turned = (clauses >= (count if second is None else second)).float()[None]
    order = list(range(count)) if not back else [*range(second, count), *range(second)]
    flags = torch.tensor([[float("abcd"[clause] in done) for clause in order] + [0.0] * (4 - count)])
    weight = _next(member, turned, torch.tensor([[float(back)]]), flags)[0]
    assert [name for name, part in zip("abcd", weight.tolist(), strict=True) if part > 0.5] == list(due)


def test_missions_are_read_the_same_whatever_they_are_read_with():
    torch.manual_seed(0)
    reader = Reader()
    other_reader = copy.deepcopy(reader)  # which has not read any of them before
    texts = [
        "go to the red ball",
        "open the grey door",
        "pick up a key, then go to the red ball and open the grey door",
    ]
    words = torch.as_tensor(np.stack([VOCABULARY.encode(text, 96).astype(np.int64) for text in texts] * 40))
    done = torch.where(
        torch.arange(4) < torch.tensor([1, 1, 3] * 40)[:, None], torch.rand(len(words), 4).round(), ABSENT
    )
    order = torch.randperm(len(words))
    with torch.no_grad():
        alone = [
            torch.cat(part)
            for part in zip(*(other_reader(words[n : n + 1], done[n : n + 1]) for n in order), strict=True)
        ]
        for one, other in zip(reader(words[order], done[order]), alone, strict=True):
            assert torch.allclose(one, other, atol=1e-5)
    sum(part.sum() for part in reader(words, done)).backward()
    assert all(parameter.grad is not None for parameter in reader.parameters())


@torch.no_grad()
def test_in_play_nothing_is_read_twice_until_the_weights_have_changed(monkeypatch):
    torch.manual_seed(0)
    reader, read = Reader(), list[int]()
    really = reader._read
    monkeypatch.setattr(reader, "_read", lambda words, *rest: (read.append(len(words)), really(words, *rest))[1])
    texts = ["go to the red ball", "open the grey door", "go to the red ball"]
    words = torch.as_tensor(np.stack([VOCABULARY.encode(text, 24) for text in texts])).long()
    done = torch.zeros(3, 4)
    first = reader(words, done)
    assert read == [2], "one text is there twice"
    done[0, 0] = 1
    again = reader(words, done)
    assert read == [2, 1], "of one text more is done"
    assert all(torch.equal(one[1:], other[1:]) for one, other in zip(first, again, strict=True))
    assert [part.shape for part in again] == [(3, 4), *((3, 4, size) for size in reader.sizes)]
    other = Reader()
    reader.load_state_dict(other.state_dict())
    for one, expected in zip(reader(words, done), other(words, done), strict=True):
        assert torch.equal(one, expected), "other weights read anew"
    reader.heads[0].weight.mul_(2)
    assert not torch.equal(reader(words, done)[1], other(words, done)[1]), "a part of other weights, too"
    reader.heads[0].weight.mul_(0.5)
    assert reader(words[:0], done[:0])[0].shape == (0, 4)
    monkeypatch.setattr(reading, "_KNOWN", 1)
    for one, expected in zip(reader(words, done), other(words, done), strict=True):
        assert torch.equal(one, expected), "and so does a memory that is full"


def test_words_are_played_at_the_mean_of_the_positions_at_which_they_were_trained(monkeypatch):
    padding = torch.zeros(3, 12, dtype=torch.bool)
    padding[1, 4:], padding[2, 1:] = True, True
    drawn = torch.stack([_drawn(padding) for _ in range(4_000)]).float().mean(0)
    assert ((drawn - _spaced(padding)).abs()[~padding] < 1.5).all()
    alone = _spaced(padding[1:2, :5])
    assert (alone[:, :4] == _spaced(padding)[1:2, :4]).all(), "longer missions beside it change nothing"

    monkeypatch.setattr(reading, "_drawn", _spaced)  # without chance, play reads what training read
    monkeypatch.setattr(reading, "_relaxed", torch.sigmoid)
    monkeypatch.setattr(reading, "_DROPPED", 0.0)
    reader, words = Reader(), torch.as_tensor(VOCABULARY.encode("go to the red ball", 24)[None]).long()
    with torch.no_grad():
        played = reader(words, torch.zeros(1, 4))
    trained = reader(words, torch.zeros(1, 4))
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(played, trained, strict=True))


def test_gates_of_the_order_are_drawn_while_they_learn_and_sure_in_play():
    torch.manual_seed(0)
    reader = Reader()
    words = torch.as_tensor(VOCABULARY.encode("go to the red ball, then open the grey door", 24)[None]).long()
    with torch.no_grad():
        assert torch.equal(reader(words, torch.zeros(1, 4))[0], reader(words, torch.zeros(1, 4))[0])
    nearly_sure = torch.full((1_000,), 1.0, requires_grad=True)
    drawn = reading._relaxed(nearly_sure)
    assert 0.68 < float((drawn > 0.5).float().mean()) < 0.78, "as often as its probability, which is .73"
    assert drawn.std() > 0.2


def test_of_clauses_in_any_order_the_first_in_words_is_turned_to_first_as_far_as_is_learned():
    torch.manual_seed(0)
    reader = Reader()
    words = torch.as_tensor(VOCABULARY.encode("go to the red ball and open the grey door", 24)[None]).long()
    found = []
    with torch.no_grad():
        for later in (0.0, 2.0):
            reader.later.fill_(later)
            found.append(reader(words, torch.zeros(1, 4))[0][0])
    weight = found[0].exp()
    assert torch.allclose(found[0] - found[1], 2 * (weight.cumsum(0) - weight), atol=1e-5)


def test_as_many_gates_open_as_there_are_clauses_after_the_first():
    torch.manual_seed(0)
    logits, count = torch.randn(4, 12, dtype=torch.float64, requires_grad=True), torch.arange(4.0)[:, None]
    gates = _moved(logits, count)
    assert torch.allclose(gates.sum(1, keepdim=True), count.double(), atol=1e-6)
    assert torch.equal(gates[1:].argsort(1), logits[1:].argsort(1))
    assert torch.autograd.gradcheck(lambda logits: _moved(logits, count)[1:], logits, atol=1e-4)
    (in_sum,) = torch.autograd.grad(gates.sum(), logits)
    assert in_sum.abs().max() < 1e-6, "which is the same wherever the logits are"


def test_words_that_are_near_to_each_other_share_one_clause():
    logits = torch.full((1, 16), -8.0)
    logits[0, [4, 5]], logits[0, 12] = 8.0, 0.0  # at "and also", and less sure at an "after"
    alone, two = (_opened(logits, torch.tensor([[count]]))[0] for count in (1.0, 2.0))
    assert alone[[4, 5]].tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    assert _moved(logits, torch.tensor([[2.0]]))[0, 12] < 0.1, "which would be outbid"
    assert two[12] > 0.9
    assert float(two[[4, 5]].sum()) == pytest.approx(1, abs=0.1)
    logits[0, 5], logits[0, 8] = -8.0, 8.0
    assert (_opened(logits, torch.tensor([[3.0]]))[0, [4, 8, 12]] > 0.95).all(), "a clause has four words at least"


def test_an_order_costs_while_gates_learn(monkeypatch):
    torch.manual_seed(0)
    reader, found = Reader(), []
    words = torch.as_tensor(VOCABULARY.encode("go to the red ball, then open the grey door", 24)[None]).long()
    for cost in (0.0, 0.5):
        monkeypatch.setattr(reading, "_COST", cost)
        reader.zero_grad()
        torch.manual_seed(1)
        reader(words, torch.tensor([[0.0, 0, ABSENT, ABSENT]]))[0].sum().backward()
        found.append(reader.marks.bias.grad.clone())
    dearer = (found[1] - found[0]).tolist()
    assert 0.05 < dearer[1] < 0.5 * 0.25, "gates of the order are drawn, and one clause begins in all"
    assert dearer[2:] == [0, 0]


class Says(torch.nn.Module):
    """Marks [1, 4, L], whatever the words are."""

    def __init__(self, marks):
        super().__init__()
        self.marks = marks

    def forward(self, near):
        return self.marks[..., : near.shape[-1]]


@torch.no_grad()
def test_what_is_done_says_nothing_where_nothing_is_left(monkeypatch):
    torch.manual_seed(0)
    reader = Reader()
    words = torch.as_tensor(VOCABULARY.encode("go to the red ball", 24)[None]).long()
    flags, really = [], reading._next
    monkeypatch.setattr(reading, "_next", lambda *given: (flags.append(given[-1].tolist()), really(*given))[1])
    for done, least in ((0.0, False), (1.0, True)):
        due = reader(words, torch.tensor([[done, ABSENT, ABSENT, ABSENT]]))[0][0]
        assert bool(due[0] < due[1:].min() - 5) == least
        assert flags.pop() == [[done, 1, 1, 1]], "absent clauses count as done, once"


@torch.no_grad()
def test_which_part_comes_first_is_said_by_the_first_word_and_where_the_other_part_begins():
    torch.manual_seed(0)
    reader = Reader()
    words = torch.as_tensor(VOCABULARY.encode("go to the red ball, then open the grey door", 24)[None]).long()
    padding, embedded = words == 0, reader.embed(words)
    said = torch.zeros(1, padding.shape[1], 4)  # begins, turns, at the beginning, where it turns
    said[..., 0], said[..., 1], said[0, 5, 0] = -20.0, -20.0, 20.0
    reader.marks = Says(said.transpose(1, 2))

    def back():
        return float(reader._gates(embedded, padding, torch.tensor([[1]]), 0.0)[-1])

    said[0, 0, 0] = 30.0
    clause, _, _ = reader._gates(embedded, padding, torch.tensor([[1]]), 0.0)
    assert clause[0, [0, 4, 5]].round().tolist() == [0, 0, 1], "the first word begins no clause but the first"
    said[0, 1:, 2], said[0, :, 3] = 20.0, 20.0
    assert back() == pytest.approx(0.5), "no word that counts says anything"
    said[0, 0, 2] = 3.0
    assert back() == pytest.approx(0.9526, abs=1e-3)
    said[0, 5, 1], said[0, 5, 3] = 20.0, -5.0
    assert back() == pytest.approx(0.1192, abs=1e-3)
