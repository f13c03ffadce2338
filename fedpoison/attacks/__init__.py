"""Attacks on the data (a shard goes in and comes out), the updates (rows that replace the attackers') and training."""

from fedpoison.attacks import data as data
from fedpoison.attacks import training as training
from fedpoison.attacks import updates as updates
