"""Rules that the field has and this package has not: `fedpoison list` says so, with what is missing."""

from fedpoison.contract.registry import LEFT_OUT

LEFT_OUT["aggregator"] |= {
    "aksel": "its definition was not read",
    "auror": "its definition was not read",
    "crfl": "it certifies by smoothing the final model, which no rule of a round can do",
    "deepsight": "its definition was not read",
    "fldetector": "its definition was not read",
    "flanders": "its definition was not read",
    "flare": "it compares what models make of samples, layer by layer; the probe gives losses only",
    "monna": "it needs a pivot that is trusted, and the server has none",
    "zeno": "its definition was not read",
}
