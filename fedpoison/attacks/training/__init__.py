"""Attacks on how a malicious client trains: none is built yet, and clients train alike."""

from fedpoison.attacks.training import left_out as left_out
