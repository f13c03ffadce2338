"""Runs of an experiment: played, written, read, planned, tuned, watched."""
