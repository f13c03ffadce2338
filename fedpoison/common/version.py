"""The version of this package, part of every run's hash."""

VERSION = "0.1.0"
