"""What one should know of runs before they start: too many attackers, attacks that come to nothing."""

from collections.abc import Iterator, Sequence

from fedpoison.config.config import Config
from fedpoison.round import World

_LISTED = 8
"""Clients that are named in a line."""


def foreseen(configs: Sequence[Config]) -> list[str]:
    """What the configurations say by themselves, a sentence each."""
    if nobody := _nobody(configs):
        return [nobody]
    kinds = (_too_many, _unused, _harmless)
    return list(
        dict.fromkeys(said for kind in kinds for config in configs if config.malicious for said in kind(config))
    )


def _nobody(configs: Sequence[Config]) -> str | None:
    """Whether attacks are named and nobody is there to carry one out."""
    threats = [config.threat for config in configs]
    named = [attack.label for each in threats for attack in (each.data, each.training, each.update) if attack]
    if not named or any(config.malicious for config in configs):
        return None
    return f"{', '.join(dict.fromkeys(named))}: threat.malicious is 0, so nobody attacks"


def _too_many(config: Config) -> Iterator[str]:
    clients = config.clients
    f = config.defence.chain.budget(clients.cohort if config.f is None else config.f)
    if f >= clients.cohort or config.threat.actor == "data":
        return
    if config.threat.draw == "per_cohort" or clients.cohort == clients.count:
        if config.expected_malicious > f:
            yield f"every round has {config.expected_malicious} attackers, more than f = {f}"
        return
    from scipy.stats import hypergeom  # slow to import, and rarely needed

    chance = float(hypergeom.sf(f, clients.count, config.malicious, clients.cohort))
    yield (
        f"with {config.malicious} of {clients.count} clients malicious, a cohort of {clients.cohort} has more "
        f"than f = {f} of them in {chance:.1%} of rounds"
    )


def _unused(config: Config) -> Iterator[str]:
    data, training, update = config.threat.data, config.threat.training, config.threat.update
    if not update or "own" in update.entry.asks:
        return
    unused = f"{update.entry.name} does not use what attackers train, so"
    if data:
        yield f"{unused} {data.entry.name} only says what is measured"
    if training:
        yield f"{unused} {training.entry.name} does nothing"


def _harmless(config: Config) -> Iterator[str]:
    """By the attackers that are to be expected, where cohorts are drawn."""
    if config.threat.update:
        entry, options = config.threat.update.step
        n, bad = config.clients.cohort, max(1, config.expected_malicious)
        known = n - bad if "all" in config.threat.knows and bad < n else bad
        if said := entry.without_effect(n, bad, known, options):
            yield said


def unchanged(config: Config, world: World) -> list[str]:
    """Whether an attack on the data leaves every sample of all its clients as it was, as a sentence.

    Nothing is said of attacks that are crafted with a net: to try them takes as long as to make them.
    """
    data, federation = config.threat.data, world.federation
    if not config.malicious or data is None or "surrogate" in data.entry.asks:
        return []
    clients = sorted(world.threat.fixed_ids) or range(federation.clients)
    if any(federation.shard(client, poisoned=True).poison.any() for client in clients):  # mostly the first is
        return []
    named = ", ".join(map(str, clients[:_LISTED])) + (", …" if len(clients) > _LISTED else "")
    whom = "malicious clients" if config.threat.actor == "client" else "clients that it is done at"
    return [f"{data.entry.name} changes no sample of the {whom}: {named} (seed {config.seed})"]
