"""The inputs that all libraries are given: tests/golden/inputs.safetensors, each called KIND-N-F."""

import zlib

import numpy as np
from recording import GOLDEN
from safetensors.numpy import save_file

D = 12
SHIFT = 1e4
EVERY_SIZE = (
    "gaussian",
    "shifted",
    "small",
    "huge",
    "overflow",
    "nan",
    "inf",
    "ties",
    "colluders",
    "clusters",
    "equal",
)
NAMES = [
    *(f"{kind}-{size}" for kind in EVERY_SIZE for size in ("7-1", "10-2", "11-2")),
    *(f"{kind}-25-5" for kind in ("gaussian", "shifted", "huge", "clusters")),
    "shifted-26-5",  # torch.cdist takes another way above 25 rows
    *(f"back-{size}" for size in ("7-1", "10-2", "11-2", "25-5", "26-5")),
    "gaussian-7-0",
    "gaussian-7-2",  # n = 2f + 3, the fewest rows that Krum is proved for
    "gaussian-5-2",  # n = 2f + 1, fewer than that
    "corner-5-1",
    "unit-7-1",
    "unit-10-2",
]


def make(name: str) -> np.ndarray:
    """The rows [n, d] in float32; adding an input changes no other."""
    kind, n, f = name.split("-")[0], *map(int, name.split("-")[1:])
    if kind == "back":  # the shifted rows, moved back without an error: what differs between the two is rounding
        return make(name.replace("back", "shifted")) - np.float32(SHIFT)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    rows = rng.standard_normal((n, D)) + 0.5
    attacker = n // 2
    match kind:
        case "shifted":  # far from the origin compared to their distances, as weights are
            rows += SHIFT
        case "small":
            rows *= 1e-4
        case "huge":
            rows[attacker] *= 1e6
        case "overflow":  # finite in float32, its square is not
            rows[attacker] = 1e30
        case "nan":
            rows[1] = np.nan
        case "inf":
            rows[1] = np.inf
        case "ties":  # many equal values and distances, two pairs of equal rows
            rows = rng.integers(-1, 2, (n, D)).astype(float)
            rows[-1], rows[2] = rows[0], rows[1]
        case "colluders":
            rows[n - f :] = rows[: n - f].mean(axis=0) + 2
        case "clusters":
            rows = 0.3 * rows + np.where(np.arange(n) % 2, 2.0, -2.0)[:, None] * rng.choice([-1, 1], D)
        case "equal":
            rows[:] = rows[0]
        case "corner":  # the coordinate-wise median is a row and not where the sum of distances is least
            rows = np.zeros((n, D))
            rows[1:, :2] = [[10, 1], [10, -1], [-0.1, 10], [-0.1, -10]]
        case "unit":  # what is made of them shows which rows it was made of
            rows = np.eye(n, D)
    return rows.astype(np.float32)


if __name__ == "__main__":
    save_file({name: make(name) for name in NAMES}, GOLDEN / "inputs.safetensors")
