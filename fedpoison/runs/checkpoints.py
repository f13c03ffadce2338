"""A State in a file that vouches for itself, and the parameters of a finished run."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedpoison.common.errors import DamagedError
from fedpoison.round import State
from fedpoison.runs.files import put

_HEAD = "checkpoint"
"""The file's only key of metadata, so that its bytes are determined; older versions have "round", and no checksum."""


def save_state(path: Path, state: State, log: str = "") -> None:
    """Replace a checkpoint atomically; `log`: the checksum of the run's last line."""
    given = {field.name: getattr(state, field.name) for field in fields(state)}
    number, memories = given.pop("round"), given.pop("memories")
    given |= {f"{owner}.{name}": value for owner, memory in memories.items() for name, value in memory.items()}
    tensors = {name: value.clone(memory_format=torch.contiguous_format) for name, value in given.items()}
    temporary, head = path.with_suffix(".tmp"), {"round": number, "log": log}
    save_file(tensors, temporary, metadata={_HEAD: json.dumps({**head, "sha256": _digest(tensors, head)})})
    put(path.parent, {temporary.name: path.name})


def load_state(path: Path) -> State:
    """Read a checkpoint; DamagedError if it is not what was written."""
    try:
        head, tensors = _head(path), load_file(path)
        if head.pop("sha256", None) != _digest(tensors, head) and [*head] != ["round"]:
            raise DamagedError(f"{path} is not what was written")
        own: dict[str, Tensor] = {}
        memories: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            owner, of_an_owner, name = key.partition(".")
            if of_an_owner:
                memories.setdefault(owner, {})[name] = tensor
            else:
                own[key] = tensor
        return State(round=head["round"], memories=memories, **own)
    except DamagedError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is no checkpoint: {error}") from error


def sealed_log(path: Path) -> str | None:
    """The checksum of the line that a checkpoint belongs to; None in one of an older version."""
    log: str | None = _head(path).get("log")
    return log


def load_params(path: Path, like: Tensor) -> Tensor:
    """The parameters of a model.safetensors; ValueError if they are not those of a net whose parameters are `like`."""
    try:
        params = load_file(path)["params"]
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a model of a run: {error}") from error
    if (params.shape, params.dtype) != (like.shape, like.dtype):
        was, now = (f"{len(t)} numbers of {t.dtype}" for t in (params.flatten(), like))
        raise ValueError(f"{path} holds {was}, the net has {now}")
    return params


def _head(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    return dict(json.loads(metadata[_HEAD])) if _HEAD in metadata else {"round": int(metadata["round"])}


def _digest(tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> str:
    whole = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
