"""Losses by which clients train. One import a file."""

from fedpoison.clients.losses import cross_entropy as cross_entropy
from fedpoison.clients.losses import generalised_cross_entropy as generalised_cross_entropy
