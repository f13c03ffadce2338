"""`fedpoison completion`."""

from typing import Literal

from fedpoison.cli import app


@app.command
def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a shell's completion script for this command.

    Examples:

    fedpoison completion bash > ~/.local/share/bash-completion/completions/fedpoison

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    print(app.generate_completion(shell=shell))
