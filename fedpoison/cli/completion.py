"""`fedpoison completion`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import GenericAlias
from typing import Annotated, Any, Literal, get_args, get_origin

from fedpoison.cli import app

_BASH = """
_fedpoison_joined() {  # bash takes a=b for three words
  local before=("${COMP_WORDS[@]}") word joined=() at=0 i
  for ((i = 0; i < ${#before[@]}; i++)); do
    word="${before[i]}"
    if ((i && ${#joined[@]} > 1)) && [[ "$word" == "=" || "${before[i-1]}" == "=" ]]; then
      joined[${#joined[@]}-1]+="$word"
    else
      joined+=("$word")
    fi
    ((i == COMP_CWORD)) && at=$((${#joined[@]} - 1))
  done
  local COMP_WORDS=("${joined[@]}") COMP_CWORD=$at
  _fedpoison
  word="${joined[at]}"
  [[ "$word" == *=* && "$COMP_WORDBREAKS" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
  [[ "${#COMPREPLY[@]}" == 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
}
complete -F _fedpoison_joined fedpoison
"""


@app.command
def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a shell's completion script for this command; it knows the names that there are when it is printed.

    Examples:

    fedpoison completion bash > ~/.local/share/bash-completion/completions/fedpoison

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    with _words(_known()):
        print(app.generate_completion(shell=shell) + (_BASH if shell == "bash" else ""))


def _known() -> dict[tuple[str, str], list[str]]:
    """What a command's argument may be, as far as it can be told before a file is read."""
    from fedpoison.config.config import Config
    from fedpoison.config.keys import keys
    from fedpoison.contract.lookup import entries
    from fedpoison.measures.metrics import METRICS, RUN_METRICS

    kinds = ("aggregator", "update_attack", "data_attack", "training_attack")
    rules, updates, data, training = (sorted(entries(kind)) for kind in kinds)
    chosen = {
        "data": entries("dataset"),
        "data.partition": entries("partition"),
        "model": entries("model"),
        "engine": entries("engine"),
        "clients.local.loss": entries("loss"),
        "defence.aggregator": rules,
        "defence.base": rules,
        "defence.pre": [f"['{name}']" for name in sorted(entries("preaggregator"))],
        "defence.client.sanitize": [f"['{name}']" for name in sorted(entries("sanitizer"))],
        "defence.monitors": [f"['{name}']" for name in sorted(entries("monitor"))],
        "threat.data": data,
        "threat.update": updates,
        "threat.training": training,
    }
    settings = [f"{key}=" for key in keys(Config) if key not in chosen]
    settings += [f"{key}={name}" for key, names in chosen.items() for name in names]
    named = [*(f"rule={name}" for name in rules), *(f"attack={name}" for name in ("none", *data, *training, *updates))]
    metrics = [*METRICS, *RUN_METRICS]
    axes = ["rule", "attack", *keys(Config)]
    found = {("table", "metric"): metrics, ("plot", "metric"): metrics, ("tune", "metric"): list(METRICS)}
    found |= {("table", "rows"): axes, ("table", "cols"): axes, ("check", "rule"): rules}
    found |= {(command, "set"): settings for command in ("run", "tune", "preview")}
    return found | {(command, "only"): named for command in ("run", "tune", "show", "table", "plot")}


@contextmanager
def _words(known: dict[tuple[str, str], list[str]]) -> Iterator[None]:
    """Have arguments that take any word take some, as long as a script is made of them."""
    functions: dict[str, Callable[..., Any]] = {}
    for command, _ in known:
        made = app[command].default_command
        assert made is not None
        functions[command] = made
    before = {command: dict(function.__annotations__) for command, function in functions.items()}
    for (command, name), words in known.items():
        functions[command].__annotations__[name] = _among(before[command][name], words)
    try:
        yield
    finally:
        for command, function in functions.items():
            function.__annotations__ = before[command]


def _among(annotation: Any, words: Sequence[str]) -> Any:
    """The same type with these words in place of `str`."""
    if annotation is str:
        return Literal[tuple(words)]
    parts = [_among(part, words) for part in get_args(annotation)]
    if get_origin(annotation) is Annotated:
        return Annotated[(parts[0], *annotation.__metadata__)]
    if get_origin(annotation) is list:
        return GenericAlias(list, tuple(parts))
    return annotation if not parts else parts[0] | parts[1]
