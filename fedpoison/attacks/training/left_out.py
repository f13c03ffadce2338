"""Attacks on the training that the field has: `fedpoison list` says that they are left out, with what is missing."""

from fedpoison.contract.registry import leave_out

leave_out(
    "training_attack",
    alternating_minimization="it steps down two losses in turns and boosts one's steps, and a drill has one loss",
    anticipate="it trains through rounds to come that it simulates, and a drill is one round's training",
    chameleon="it first trains the features by contrast, and losses here are of logits and not of features",
    cosine_constrained="its loss has a term of the angle to the global model, and a drill one of the distance alone",
    f3ba="it flips signs of weights that matter little before it trains, and a drill begins at the global model",
    lfa="it turns the layers that a backdoor needs, found by training twice; attackers here train once",
    lpa="it poisons only the layers that a backdoor needs, found by training twice (critical layers); here it is once",
    soda="it trains close to a clean model of its own, and a drill begins at the global model and stays close to that",
    threedfed="it reads from the next model whether it was accepted, in parameters of little curvature that it marks",
)
