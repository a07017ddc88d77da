"""Adam's step over many arrays is torch's, whatever they are."""

import copy

import pytest
import torch

from preceptor.ground import adam
from preceptor.ground.optim import FusedAdam


def test_gradients_are_followed_whatever_their_place_in_memory_and_a_copy_of_the_optimiser_goes_on():
    weight = torch.nn.Parameter(torch.zeros(3, 2))
    adam = FusedAdam([weight], 0.1)
    gradient = torch.arange(6.0).view(2, 3).t() - 2
    adam.follow([gradient])
    assert (weight.detach().sign() == -gradient.sign()).all()
    adam.minimize(weight.sum())  # whose gradient is one number for all
    follower = copy.deepcopy(adam)
    follower.follow([gradient])
    assert [int(state["step"]) for state in follower.state.values()] == [3]
    adam.follow([None])
    assert [int(state["step"]) for state in adam.state.values()] == [2], "nothing was learned"


def test_a_share_of_the_first_rate_is_of_the_first_whatever_was_said_before_and_in_a_copy():
    weight = torch.nn.Parameter(torch.zeros(1))
    adam = FusedAdam([weight], 0.1)
    adam.scale_rate(0.5)
    for optimiser in (adam, copy.deepcopy(adam)):
        optimiser.load_state_dict(adam.state_dict())
        optimiser.scale_rate(0.25)
        assert optimiser.param_groups[0]["lr"] == 0.025
        moved = optimiser.parameters[0].detach().clone()
        optimiser.follow([torch.ones(1)])
        assert float(moved - optimiser.parameters[0].detach()) == pytest.approx(0.025, rel=1e-4)


def followed(optimiser, parameters, gradients, max_norm):
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    optimiser.step()


def test_what_has_no_gradient_does_not_count_as_a_step():
    both = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    stock = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    ours, theirs = FusedAdam(both, 0.1, eps=1e-5), torch.optim.Adam(stock, 0.1, eps=1e-5)
    for step in range(6):
        gradients = [torch.full((3,), 1.0 + step), None if step < 3 else torch.full((3,), 2.0)]
        ours.follow(gradients, max_norm=1.5)
        followed(theirs, stock, gradients, 1.5)
        if step == 1:  # before the second has learned, of which stock Adam has no state
            ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        if step == 4:
            ours.load_state_dict(copy.deepcopy(ours.state_dict()))
    for one, other in zip(both, stock, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("max_norm", [None, 1e-3, 1e3])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_steps_are_torchs_whatever_the_arrays(max_norm, kind, monkeypatch):
    torch.manual_seed(0)
    compiled = []
    monkeypatch.setattr(adam, "step", lambda *said, step=adam.step: (compiled.append(1), step(*said)))
    shapes = (), (1,), (7,), (0, 4), (1, 64), (33, 17), (2, 3, 5), (64, 64)
    first = [torch.randn(shape, dtype=kind) for shape in shapes]
    first += [torch.randn(5, 3, dtype=kind).t()]
    both = [[torch.nn.Parameter(part.clone()) for part in first] for _ in range(2)]
    ours, theirs = FusedAdam(both[0], 0.01, eps=1e-5), torch.optim.Adam(both[1], 0.01, eps=1e-5, fused=True)
    for _ in range(5):
        gradients = [torch.randn_like(part) for part in first]
        ours.follow(gradients, max_norm)
        followed(theirs, both[1], gradients, max_norm)
    for one, other in zip(*both, strict=True):
        rounding = {"rtol": 0.02, "atol": 1e-3} if kind == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(one, other, **rounding)
    assert bool(compiled) == (kind == torch.float32)


def test_steps_are_as_exact_as_float32_allows():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64))
    exact = torch.nn.Parameter(weight.detach().double())
    ours, theirs = FusedAdam([weight], 0.1), torch.optim.Adam([exact], 0.1)
    for _ in range(100):
        gradient = torch.randn(64)
        ours.follow([gradient])
        followed(theirs, [exact], [gradient.double()], None)
    torch.testing.assert_close(weight.double(), exact, rtol=0, atol=4e-6)


def test_parameters_with_gaps_in_memory_are_refused():
    with pytest.raises(ValueError, match="gaps"):
        FusedAdam([torch.nn.Parameter(torch.ones(4, 6)[:, ::2])], 0.1)


def test_what_is_not_a_number_or_does_not_fit_is_not_followed_in_silence():
    def weights():
        return [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))]

    for wrong in (torch.nan, torch.inf):
        both = weights()
        FusedAdam(both, 0.1).follow([torch.tensor([wrong, 1.0, 1.0]), torch.ones(2, 2)], max_norm=1.0)
        assert both[0][0].isnan()
        assert bool(both[1].isnan().any()) == (wrong != torch.inf), "the norm is not a number, or infinite"
    for odd in (torch.ones(4), torch.ones(()), torch.ones(3, dtype=torch.float64), torch.ones(3).to("meta")):
        both = weights()
        refusing = FusedAdam(both, 0.1)
        with pytest.raises(ValueError, match="shapes and kinds"):
            refusing.follow([odd, torch.ones(2, 2)])
        assert all(state["step"] == 0 for state in refusing.state.values())
    both = weights()
    moved = FusedAdam(both, 0.1)
    both[0].data = torch.ones(300)
    with pytest.raises(ValueError, match="shapes and kinds"):
        moved.follow([torch.ones(300), torch.ones(2, 2)])
