"""Sanitizers that the field has and this package has not: `fedpoison list` says so, with what is missing."""

from fedpoison.contract.registry import leave_out

leave_out(
    "sanitizer",
    roni="it judges each sample by what it does to a model of trusted ones, and a client has none but the suspects",
    label_relabelling="it gives suspects the label of their neighbours; a sanitizer here keeps or takes out",
)
