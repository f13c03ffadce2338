"""Attacks on the training that the field has: `fedpoison list` says that they are left out, with what is missing."""

from fedpoison.contract.registry import leave_out

leave_out(
    "training_attack",
    anticipate="it trains through rounds to come that it simulates, and malicious clients train as the honest do",
    chameleon="it trains the features by contrast, then the head, and malicious clients train as the honest do",
    constrain_and_scale="it is held near the global model as it trains; malicious clients are as free as the honest",
    cosine_constrained="its model is held at an angle as it trains; malicious clients are as free as the honest",
    f3ba="it flips signs of weights that matter little, then trains; malicious clients train as the honest do",
    lfa="it turns the layers that a backdoor needs, found by training twice; attackers here train once",
    lpa="it poisons only the layers that a backdoor needs, found by training twice; attackers here train once",
    pgd="it projects the model onto a ball as it trains, and malicious clients train as the honest do",
    soda="it trains close to a clean model of its own, and malicious clients train as the honest do",
    threedfed="it reads from the next model whether it was accepted, and malicious clients train as the honest do",
)
