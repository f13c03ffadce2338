"""Monitors: they see what the server sees, round after round, and raise alarms. One import a file."""

from fedpoison.defences.monitors import norm_jump as norm_jump
