"""Rules with one mistake each, which published libraries made or an author may make. `fedpoison check` finds them."""

import torch

from fedpoison import aggregator
from fedpoison.types import ClientIds, Norms, SquaredDistances, State, Update, Updates, Weights

ALL = ("permutation", "unanimity", "translation", "scale")


@aggregator(needs="n > 2*f", claims=ALL, coordinatewise=True)
def trims_to_nothing(updates: Updates, f: int) -> Update:
    """The trimmed mean by [f:-f], which is empty for f = 0."""
    return updates.sort(dim=0).values[f:-f].mean(dim=0)


@aggregator(needs="n > 2*f + 3", claims=ALL)
def mixes_up_indices(updates: Updates, f: int) -> Update:
    """Krum without the longest update, whose index among the rest is used on all."""
    rest = updates[updates.norm(dim=1) < updates.norm(dim=1).max()]
    distances = torch.cdist(rest.double(), rest.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    scores = distances.sort(dim=1).values[:, 1 : len(updates) - f - 2].sum(dim=1)
    return updates[scores.argmin()].clone()


@aggregator(claims=ALL, coordinatewise=True)
def takes_the_lower_middle(updates: Updates) -> Update:
    """The median as torch has it: of an even number of values the lower middle."""
    return updates.median(dim=0).values


@aggregator(needs="n > 2*f", claims=ALL, coordinatewise=True)
def sorts_its_input(updates: Updates, f: int) -> Update:
    """The trimmed mean of updates sorted where they lie."""
    columns = updates.numpy()
    columns.sort(axis=0)
    return updates[f : len(updates) - f].mean(dim=0)


@aggregator(needs="n > 2", claims=ALL)
def returns_its_input(updates: Updates, squared_distances: SquaredDistances) -> Update:
    """The medoid, which is not copied."""
    return updates[squared_distances.sqrt().sum(dim=1).argmin()]


@aggregator(claims=("permutation",), withstands="nothing")
def draws_globally(updates: Updates) -> Update:
    """The mean with noise that nobody seeded."""
    return updates.mean(dim=0) + 0.1 * torch.randn(updates.shape[1], dtype=updates.dtype)


@aggregator(claims=ALL)
def calls_the_mean_robust(updates: Updates) -> Update:
    """The mean, which one client carries away."""
    return updates.mean(dim=0)


@aggregator(needs="n > 2*f", claims=ALL, coordinatewise=True)
def trims_one_too_many(updates: Updates, f: int) -> Update:
    """The trimmed mean with one more on each side wherever there is an f: nothing is left of n = 2f + 1 or 2f + 2."""
    trim = f + 1 if f else 0
    return updates.sort(dim=0).values[trim : len(updates) - trim].mean(dim=0)


@aggregator(needs="n > 2*f", claims=("permutation", "unanimity"), coordinatewise=True)
def subtracts_the_extremes(updates: Updates, f: int) -> Update:
    """The trimmed mean as the sum of all less the sum of the extremes, which may be ∞ − ∞."""
    largest, smallest = (updates.topk(f, dim=0, largest=end).values.sum(dim=0) for end in (True, False))
    return (updates.sum(dim=0) - largest - smallest) / (len(updates) - 2 * f)


@aggregator(claims=ALL, withstands="nothing")
def trusts_the_first(updates: Updates) -> Weights:
    """The mean in which the first client counts twice."""
    weights = torch.ones(len(updates), dtype=torch.float64)
    weights[0] = 2
    return weights / weights.sum()


@aggregator(claims=("permutation",), coordinatewise=True)
def looks_across_coordinates(updates: Updates) -> Update:
    """The median of updates brought to one length, which depends on the block of columns."""
    lengths = updates.norm(dim=1, keepdim=True)
    return (updates / lengths.clamp(min=1)).quantile(0.5, dim=0)


@aggregator(needs="n > 2*f + 2", claims=ALL)
def cancels(updates: Updates, f: int) -> Update:
    """Krum on ‖x‖² + ‖y‖² − 2x·y about the origin, in the updates' precision."""
    squares = updates.square().sum(dim=1)
    distances = squares + squares.unsqueeze(1) - 2 * updates @ updates.T
    scores = distances.sort(dim=1).values[:, 1 : len(updates) - f - 1].sum(dim=1)
    return updates[scores.argmin()].clone()


@aggregator(claims=ALL, withstands="nothing")
def divides_by_the_honest(updates: Updates, f: int) -> Update:
    """The sum of all over the number of the honest."""
    return updates.sum(dim=0) / max(1, len(updates) - f)


@aggregator(claims=(), withstands="nothing")
def takes_back(updates: Updates) -> Weights:
    """The mean, with a negative weight for the longest update."""
    weights = torch.ones(len(updates), dtype=torch.float64)
    weights[updates.norm(dim=1).argmax()] = -0.5
    return weights / weights.sum()


@aggregator(claims=("permutation",), withstands="nothing")
def remembers_by_place(updates: Updates, state: State) -> tuple[Weights, State]:
    """The mean in a first round; later whoever stood first then counts twice."""
    weights = torch.ones(len(updates), dtype=torch.float64)
    if "met" in state:
        weights[0] = 2
    return weights / weights.sum(), {"met": torch.ones(1)}


@aggregator(claims=("permutation",), withstands="nothing")
def remembers_by_row(updates: Updates, norms: Norms, state: State) -> tuple[Weights, State]:
    """The mean, in which who sent much before counts less; it takes the rows of rounds for the same clients."""
    seen = state.get("seen", torch.zeros_like(norms)) + norms
    weights = 1 / (1 + seen)
    return weights / weights.sum(), {"seen": seen}


@aggregator(claims=("permutation",), withstands="nothing")
def takes_the_new_for_another(norms: Norms, client_ids: ClientIds, state: State) -> tuple[Weights, State]:
    """The same by client, but who is new finds a place among those who are known."""
    order, before = client_ids.argsort(), torch.zeros_like(norms)
    if "ids" in state:
        before = state["seen"][torch.searchsorted(state["ids"], client_ids).clamp(max=len(state["ids"]) - 1)]
    seen = before + norms
    weights = 1 / (1 + seen)
    return weights / weights.sum(), {"ids": client_ids[order], "seen": seen[order]}


@aggregator(claims=ALL)
def always_fails(updates: Updates) -> Update:
    """A rule that is not finished."""
    raise NotImplementedError("later")


@aggregator(claims=("unanimity", "scale"), withstands="nothing")
def divides_by_the_spread(updates: Updates) -> Update:
    """A mean weighted by distances from it, which are all zero when all send the same."""
    distances = (updates - updates.mean(dim=0)).norm(dim=1)
    return (distances / distances.sum()) @ updates
