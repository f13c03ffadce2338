"""Mistakes in how attackers train otherwise."""

DRILLS = "tests/contracts/test_drills.py"
TRAINING = "tests/attacks/test_training_attacks.py"

MUTANTS = (
    (
        "the oracle's masked parameters move by decay",
        "clients/drills.py",
        "now = torch.where(self._mask, now, params)",
        "now = now.clone()",
        DRILLS,
    ),
    (
        "the oracle clips with what may not move",
        "clients/training.py",
        "held.mask_gradients()",
        "pass",
        DRILLS,
    ),
    (
        "a stack's masked parameters move by momentum",
        "engines/descent.py",
        "torch.where(self._frozen[:active], self._start, self.nets[:active], out=self.nets[:active])",
        "self.nets[:active].clone()",
        DRILLS,
    ),
    (
        "a stack clips with what may not move",
        "engines/descent.py",
        "self._gradients[:active].masked_fill_(self._frozen[:active], 0)",
        "self._gradients[:active].clone()",
        DRILLS,
    ),
    (
        "the radius is held in every step",
        "engines/descent.py",
        "self._count % drill.every == 0",
        "self._count > 0",
        DRILLS,
    ),
    (
        "a short update is stretched",
        "clients/drills.py",
        "if norm > radius else moved",
        "if norm > 0 else moved",
        DRILLS,
    ),
    (
        "attackers who are held stand among the honest",
        "engines/batched.py",
        "if held == holds and (known is local or known == local):",
        "if known is local or known == local:",
        DRILLS,
    ),
    (
        "the schedule bends a drill's own rate",
        "clients/training.py",
        "return local.scaled(self.lr_scale).drilled(task.drill)",
        "return local.drilled(task.drill).scaled(self.lr_scale)",
        DRILLS,
    ),
    (
        "the signed gradient is parted",
        "attacks/training/neurotoxin.py",
        "seen.abs().argsort(stable=True)",
        "seen.argsort(stable=True)",
        TRAINING,
    ),
    (
        "what hardly moves stays",
        "attacks/training/neurotoxin.py",
        "[half_up(ratio * len(seen)) :]",
        "[: half_up(ratio * len(seen))]",
        TRAINING,
    ),
    (
        "the gradient is of the last samples",
        "clients/drills.py",
        "(losses.sum() / len(shard)).backward()",
        "net.zero_grad(), (losses.sum() / len(shard)).backward()",
        TRAINING,
    ),
    (
        "dropout disturbs the gradient",
        "clients/drills.py",
        "copy.deepcopy(self._net).eval()",
        "copy.deepcopy(self._net).train()",
        TRAINING,
    ),
    (
        "attackers share a memory",
        "attacks/drilling.py",
        'own = f"{client}/"',
        'own = "all/"',
        TRAINING,
    ),
    (
        "a memory is forgotten",
        "round.py",
        '"drills": harvest.drills,',
        '"drills": {},',
        TRAINING,
    ),
    (
        "masks do not travel",
        "engines/messages.py",
        'Drill(**{**drill, "mask": mask})',
        'Drill(**{**drill, "mask": None and mask})',
        TRAINING,
    ),
)
