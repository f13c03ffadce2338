"""What a user is told in sentences instead of a traceback. Light, so that every command can load it."""

from collections.abc import Mapping
from pathlib import Path

from fedpoison.common.plain import plain

_LONGEST = 4000
"""Characters of a sentence; what is quoted may be a user's file."""


class ConfigError(ValueError):
    """What is wrong with a configuration, one line a problem."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = [plain(problem, _LONGEST) for problem in dict.fromkeys(problems)]
        super().__init__("\n".join(self.problems))


class AlgorithmError(ValueError):
    """An algorithm failed or returned what its kind must not; a user's is named with its file and line.

    `kind` tells one failure from another: the name of the exception it failed with, or "result".
    """

    def __init__(self, sentence: str, kind: str = "result") -> None:
        super().__init__(sentence, kind)
        self.sentence, self.kind = plain(sentence, _LONGEST), kind

    def __str__(self) -> str:
        return self.sentence


class WatchError(ValueError):
    """There is nothing to watch."""


class BusyError(RuntimeError):
    """Another process is at work in this run's folder."""


class DamagedError(ValueError):
    """A file of a run is not what was written; the sentence names it."""


LEFT = "it is left to another process, which is at it"
"""Why a run was not made that is somebody else's."""


class RunError(RuntimeError):
    """Some runs of an experiment failed; the others are finished."""

    def __init__(self, failures: Mapping[Path, str]) -> None:
        self.failures = failures
        super().__init__("\n".join(f"{folder}: {why}" for folder, why in failures.items()))

    def sentences(self) -> list[str]:
        """A line a run, and where its traceback is, if there is one."""
        said = []
        for folder, why in self.failures.items():
            traceback = " (the traceback is in its error.txt)" if (folder / "error.txt").is_file() else ""
            said.append(f"{folder}: {why}" if why == LEFT else f"{folder} failed: {why}{traceback}")
        return said


class FetchError(RuntimeError):
    """A data set could not be had from anywhere."""
