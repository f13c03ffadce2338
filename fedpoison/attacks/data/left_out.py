"""Attacks on data that the field has and this package has not: `fedpoison list` says so, with what is missing."""

from fedpoison.contract.registry import leave_out

leave_out(
    "data_attack",
    a3fl="it tunes its trigger against every round's model, and data are poisoned once, before training",
    cerp="it tunes its trigger with the local model in every round, and data are poisoned once",
    convex_polytope="it solves for its weights at each step; bullseye_polytope, which followed, holds them equal",
    iba="it trains a generator of triggers along with the rounds, and data are poisoned once",
    input_aware="its generator of triggers is trained together with the model that it attacks",
    lira="its generator of triggers is trained together with the model that it attacks",
    metapoison="it unrolls the training of many nets, and an attack here is given one that is trained",
    refool="it lays photographs over pictures as reflections, and there are none at hand",
    semantic="it needs samples with a feature by nature (cars of one colour), and no data set here says which",
    sleeper_agent="it retrains its net as the poison grows, and an attack here is given one that is trained",
    unlearnable_examples="it trains a net in turns with the noise, and an attack here is given one that is trained",
)
