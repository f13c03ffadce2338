"""Mistakes in monitors and in what is done on an alarm."""

MONITORS = "tests/defences/test_monitors.py"

MUTANTS = (
    (
        "the lower of two middles is the median",
        "defences/monitors/norm_jump.py",
        "return values.quantile(0.5)",
        "return values.median()",
        MONITORS,
    ),
    (
        "an alarm is learned from",
        "defences/monitors/norm_jump.py",
        'return Alarm(said, tuple(client_ids[far].tolist())), {"norms": seen}',
        'return Alarm(said, tuple(client_ids[far].tolist())), {"norms": torch.cat([seen, norm])[-window:]}',
        MONITORS,
    ),
    (
        "it judges before it knows",
        "defences/monitors/norm_jump.py",
        "if len(seen) == window and",
        "if len(seen) and",
        MONITORS,
    ),
    (
        "nothing is forgotten",
        "defences/monitors/norm_jump.py",
        "torch.cat([seen, norm])[-window:]",
        "torch.cat([seen, norm])",
        MONITORS,
    ),
    (
        "a rollback leaves the optimizer's memory",
        "server.py",
        "            memory=memory,\n",
        "            memory=kept if not verdict.skipped else memory,\n",
        MONITORS,
    ),
    (
        "a rollback leaves the rule's memory",
        "server.py",
        "verdict = replace(verdict, state=situation.state)",
        "verdict = replace(verdict)",
        MONITORS,
    ),
    (
        "monitors' memories are lost",
        "round.py",
        '"monitors": served.watched,',
        '"monitors": {},',
        MONITORS,
    ),
    (
        "a monitor that fails ends the run",
        "defences/monitoring.py",
        "except Exception as error:",
        "except ZeroDivisionError as error:",
        MONITORS,
    ),
)
