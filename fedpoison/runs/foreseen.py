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
    named = [attack.label for config in configs for group in config.threat.each for attack in group.attacks]
    if not named or any(config.malicious for config in configs):
        return None
    return f"{', '.join(dict.fromkeys(named))}: threat.malicious is 0, so nobody attacks"


def _too_many(config: Config) -> Iterator[str]:
    clients = config.clients
    f = config.defence.chain.budget(clients.cohort if config.f is None else config.f)
    if f >= clients.cohort or not config.hostile:
        return
    if config.threat.draw == "per_cohort" or clients.cohort == clients.count:
        if config.expected_hostile > f:
            yield f"every round has {config.expected_hostile} attackers, more than f = {f}"
        return
    from scipy.stats import hypergeom  # slow to import, and rarely needed

    chance = float(hypergeom.sf(f, clients.count, config.hostile, clients.cohort))
    yield (
        f"with {config.hostile} of {clients.count} clients malicious, a cohort of {clients.cohort} has more "
        f"than f = {f} of them in {chance:.1%} of rounds"
    )


def _unused(config: Config) -> Iterator[str]:
    for group in config.threat.each:
        if not group.update or "own" in group.update.entry.asks:
            continue
        unused = f"{group.update.entry.name} does not use what attackers train, so"
        if group.data:
            yield f"{unused} {group.data.entry.name} only says what is measured"
        if group.training:
            yield f"{unused} {group.training.entry.name} does nothing"


def _harmless(config: Config) -> Iterator[str]:
    """By the attackers that are to be expected, where cohorts are drawn."""
    honest = max(0, config.clients.cohort - max(1, config.expected_malicious))
    for group, count in zip(config.threat.each, config.counts, strict=True):
        if group.update and count:
            entry, options = group.update.step
            bad = max(1, config.expected(count))
            known = honest if "all" in group.knows and honest else bad
            if said := entry.without_effect(honest + bad, bad, known, options):
                yield said


def unchanged(config: Config, world: World) -> list[str]:
    """Whether an attack on the data leaves every sample of all its clients as it was, as a sentence for each.

    Nothing is said of attacks that are crafted with a net: to try them takes as long as to make them.
    """
    federation, said = world.federation, []
    for threat, count in zip(world.threats, config.counts, strict=True):
        if not count or threat.data is None or "surrogate" in threat.data[0].asks:
            continue
        clients = sorted(threat.fixed_ids) or range(federation.clients)
        if any(federation.shard(client, poisoned=True).poison.any() for client in clients):  # mostly the first is
            continue
        named = ", ".join(map(str, clients[:_LISTED])) + (", …" if len(clients) > _LISTED else "")
        whom = "malicious clients" if threat.actor == "client" else "clients that it is done at"
        said.append(f"{threat.data[0].name} changes no sample of the {whom}: {named} (seed {config.seed})")
    return said
