"""Engines: how the clients of a round are trained. Each is held to `sequential`."""

from fedpoison.engines import batched as batched
from fedpoison.engines import flower as flower
from fedpoison.engines import ray as ray
from fedpoison.engines import sequential as sequential
