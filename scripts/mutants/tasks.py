"""Mistakes about what is learned."""

TASKS = "tests/tasks"
EVALUATION = "tests/measures/test_evaluation.py"

MUTANTS = [
    # (what the mistake is, file, text, its replacement, the tests that must fail)
    (
        "what is no number is class 0",
        "tasks/classification.py",
        ".masked_fill(~self.usable(outputs), -1)",
        "",
        EVALUATION,
    ),
    (
        "the commoner class is the rare one",
        "tasks/classification.py",
        "sizes[1] <= sizes[0]",
        "sizes[1] > sizes[0]",
        TASKS,
    ),
    ("a label too many", "tasks/classification.py", "<= highest < self.classes", "<= highest <= self.classes", TASKS),
    ("skew is of numbers, not shares", "tasks/classification.py", "(shares - whole)", "(counts - whole)", TASKS),
    (
        "the root set is classified whatever is learned",
        "measures/evaluation.py",
        "(~self._task.right(outputs, labels))",
        "(outputs.argmax(dim=1) != labels)",
        TASKS,
    ),
]
