"""Mistakes in losses."""

LOSSES = "tests/clients/test_losses.py"

MUTANTS = (
    (
        "a truncated loss still teaches",
        "clients/losses/generalised_cross_entropy.py",
        "wrong.clamp(max=-math.log(k))",
        "wrong.clamp(max=math.log(k))",
        LOSSES,
    ),
    (
        "the reverse cross-entropy is turned round",
        "clients/losses/symmetric_cross_entropy.py",
        "beta * log_zero * torch.expm1(-wrong)",
        "beta * log_zero * torch.exp(-wrong)",
        LOSSES,
    ),
    (
        "the focal loss has no slope where the net is sure",
        "clients/losses/focal.py",
        "doubt.clamp(min=torch.finfo(doubt.dtype).tiny) ** gamma",
        "doubt**gamma",
        LOSSES,
    ),
    (
        "what is trimmed depends on the size of the rest",
        "clients/losses/trimmed_cross_entropy.py",
        "len(losses) / count",
        "1.0",
        LOSSES,
    ),
    (
        "the easiest are trimmed",
        "clients/losses/trimmed_cross_entropy.py",
        "argsort(stable=True)",
        "argsort(stable=True, descending=True)",
        LOSSES,
    ),
    (
        "nothing of a minibatch is left",
        "clients/losses/trimmed_cross_entropy.py",
        "max(1, len(losses) - down(share * len(losses)))",
        "len(losses) - down(share * len(losses))",
        LOSSES,
    ),
)
