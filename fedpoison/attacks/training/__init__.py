"""Attacks on how a malicious client trains. One import a file."""

from fedpoison.attacks.training import constrain_and_scale as constrain_and_scale
from fedpoison.attacks.training import left_out as left_out
from fedpoison.attacks.training import neurotoxin as neurotoxin
from fedpoison.attacks.training import own_settings as own_settings
from fedpoison.attacks.training import projected_gradient as projected_gradient
