"""Losses by which clients train. One import a file."""

from fedpoison.clients.losses import cross_entropy as cross_entropy
from fedpoison.clients.losses import focal as focal
from fedpoison.clients.losses import generalised_cross_entropy as generalised_cross_entropy
from fedpoison.clients.losses import label_smoothing as label_smoothing
from fedpoison.clients.losses import symmetric_cross_entropy as symmetric_cross_entropy
from fedpoison.clients.losses import trimmed_cross_entropy as trimmed_cross_entropy
