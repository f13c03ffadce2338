"""Monitors: they see what the server sees, round after round, and raise alarms. One import a file."""

from fedpoison.defences.monitors import adwin as adwin
from fedpoison.defences.monitors import cusum as cusum
from fedpoison.defences.monitors import ewma as ewma
from fedpoison.defences.monitors import norm_jump as norm_jump
from fedpoison.defences.monitors import page_hinkley as page_hinkley
from fedpoison.defences.monitors import per_class_drop as per_class_drop
