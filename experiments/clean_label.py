"""Does poison with clean labels work in a federation? Thirty victims, fine-tuning and from scratch.

python experiments/clean_label.py [--out results] [--victims 30]

Ten clients have fifty images each, about five of a class. In fine-tuning they train a new last layer on the frozen rest
of experiments/backbone.toml's net, until it fits their images; from scratch, the whole net. An attacker perturbs all of
its images of the wanted class so that one victim, a test image of another class, is taken for it; labels stay. An
outsider perturbs a fifth of these at each client (from scratch, all). Every run is paired with the same run without
poison. Prints a table in Markdown: successes with Wilson's 95 % interval, the same victims' rate without poison, the p
of McNemar's exact test.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from rich.progress import track
from scipy.stats import binomtest

import fedpoison

HERE = Path(__file__).parent
ATTACKS: list[dict[str, Any]] = [
    {"name": "feature_collision"},
    {"name": "bullseye_polytope", "epsilon": 0.3},
    {"name": "witches_brew", "epsilon": 0.3},
]
OTHER_RULES = ("multi_krum", "median", "trimmed_mean")
OUTSIDER = {"malicious": 10, "actor": "data"}


def victim(number: int) -> dict[str, int]:
    """A test image and the class it is to be taken for: all classes in turn, each time with another wanted one."""
    again, source = divmod(number, 10)
    return {"source": source, "target": (source + 1 + 3 * again) % 10, "victim": again}


def studies(backbone: Path) -> Iterator[tuple[str, str, str, dict[str, Any], dict[str, Any]]]:
    """Each line of the table: setting, who poisons, rule, and the tables for threat and the rest."""
    tuned = {"warm_start": {"file": str(backbone), "train_last": 1, "fresh": True}}
    for count, rule in [(1, "mean"), (2, "mean"), (3, "mean"), *((2, rule) for rule in OTHER_RULES)]:
        yield (
            "fine-tuning",
            f"{count} of 10 clients",
            rule,
            {"malicious": count},
            {**tuned, "defence": told(rule, count)},
        )
    for rule in ("mean", *OTHER_RULES):
        yield "fine-tuning", "an outsider", rule, {**OUTSIDER, "share": 0.2}, {**tuned, "defence": told(rule, 2)}
    yield "from scratch", "2 of 10 clients", "mean", {"malicious": 2}, {"defence": told("mean", 2)}
    yield "from scratch", "an outsider", "mean", {**OUTSIDER, "share": 1.0}, {"defence": told("mean", 2)}


def told(rule: str, f: int) -> dict[str, Any]:
    """[defence]."""
    return {"aggregator": rule, "f": f}


def table(attack: dict[str, Any], threat: dict[str, Any], rest: dict[str, Any], victims: int) -> dict[str, Any]:
    """The experiment of one line and attack: a run a victim, each with its clean one."""
    budget = {"share": threat["share"]} if "share" in threat else {}
    threat = {key: value for key, value in threat.items() if key != "share"}
    aimed = [{**threat, "data": {**attack, **budget, **victim(number)}} for number in range(victims)]
    return {
        "name": "clean_label",
        "rounds": 20,
        "evaluate_every": 20,
        "paired_clean": True,
        "data": {"name": "fashion_mnist_mini", "validation": 4500},  # 500 are left to train on
        "model": {"name": "mlp", "hidden": [100]},
        "clients": {
            "count": 10,
            "local": {"epochs": 10, "batch_size": 16, "lr": 0.3 if "warm_start" in rest else 0.05, "momentum": 0.9},
        },
        "sweep": {"threat": aimed},
        **rest,
    }


def line(setting: str, who: str, rule: str, attack: dict[str, Any], found: pl.DataFrame) -> str:
    """One row of the table."""
    last = found.filter((pl.col("round") == 20) & (pl.col("attack") != "none"))
    hit, before = last["target_success"].to_list(), last["clean_success"].to_list()
    wins = sum(a > b for a, b in zip(hit, before, strict=True))
    losses = sum(a < b for a, b in zip(hit, before, strict=True))
    p = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    low, high = binomtest(int(sum(hit)), len(hit)).proportion_ci(method="wilson")
    options = ", ".join(f"{key} = {value}" for key, value in attack.items() if key != "name")
    named = attack["name"] + (f" ({options})" if options else "")
    cells = [
        setting,
        who,
        rule,
        named,
        f"{sum(hit):.0f}/{len(hit)}",
        f"{low:.2f}–{high:.2f}",
        f"{sum(before):.0f}/{len(hit)}",
    ]
    return " | ".join([*cells, f"{p:.1g}", f"{last['accuracy'].mean():.3f}", f"{last['clean_accuracy'].mean():.3f}"])


def main() -> None:
    """Train the backbone, make all runs that are not there, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--victims", type=int, default=30)
    given = parser.parse_args()
    backbone = fedpoison.run(HERE / "backbone.toml", out=given.out).folders[0].path / "model.safetensors"
    work = [(study, attack) for study in studies(backbone) for attack in ATTACKS]
    lines = []
    for (setting, who, rule, threat, rest), attack in track(work, "lines of the table"):
        found = fedpoison.run(table(attack, threat, rest, given.victims), out=given.out)
        lines.append(line(setting, who, rule, attack, found.frame()))
    print("| setting | who | rule | attack | success | 95 % | without poison | p | accuracy | without poison |")
    print("|---|---|---|---|---:|---|---:|---:|---:|---:|")
    print("\n".join(f"| {text} |" for text in lines))


if __name__ == "__main__":
    main()
