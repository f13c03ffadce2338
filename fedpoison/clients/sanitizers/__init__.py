"""Sanitizers: what an honest client takes out of its samples before it trains. One import a file."""

from fedpoison.clients.sanitizers import knn_labels as knn_labels
