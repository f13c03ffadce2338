"""Record what krum's rules and attacks give."""

from krum.primitives.aggregators.aksel import Aksel
from krum.primitives.aggregators.average import Average
from krum.primitives.aggregators.brute import Brute
from krum.primitives.aggregators.bulyan import Bulyan
from krum.primitives.aggregators.geometric_median import GeometricMedian
from krum.primitives.aggregators.krum import Krum
from krum.primitives.aggregators.median import Median
from krum.primitives.aggregators.medoid import Medoid
from krum.primitives.aggregators.multikrum import MultiKrum
from krum.primitives.aggregators.nearest_neighbor_average import NearestNeighborAverage
from krum.primitives.aggregators.trimmed_mean import TrimmedMean
from krum.primitives.attacks.alie import ALIEAttack
from krum.primitives.attacks.sign_flip import SignFlipAttack
from recording import HONEST, record

FUNCTIONS = {
    "mean": lambda rows, f: Average.aggregate(rows),
    "median": lambda rows, f: Median.aggregate(rows),
    "trimmed_mean": lambda rows, f: TrimmedMean.aggregate(rows, f=f),
    "geometric_median": lambda rows, f: GeometricMedian.aggregate(rows, n=len(rows), f=f),
    "krum": lambda rows, f: Krum.aggregate(rows, n=len(rows), f=f),
    "multi_krum": lambda rows, f: MultiKrum.aggregate(rows, n=len(rows), f=f),
    "multi_krum_n_f": lambda rows, f: MultiKrum.aggregate(rows, n=len(rows), f=f, m=len(rows) - f),
    "bulyan": lambda rows, f: Bulyan.aggregate(rows, n=len(rows), f=f),
    "bulyan_of_krum": lambda rows, f: Bulyan.aggregate(rows, n=len(rows), f=f, m=1),
    "mda": lambda rows, f: Brute.aggregate(rows, n=len(rows), f=f),
    "monna": lambda rows, f: NearestNeighborAverage.aggregate(rows, num_closest=len(rows) - f, pivot=rows[0]),
    "medoid": lambda rows, f: Medoid.aggregate(rows, n=len(rows), f=f),
    "aksel": lambda rows, f: Aksel.aggregate(rows, f=f),
    "sign_flip": lambda rows, f: SignFlipAttack.generate(rows, f=max(1, f))[0],
    "alie": lambda rows, f: ALIEAttack.generate(rows, f=max(1, f))[0],
    "alie_z": lambda rows, f: ALIEAttack.generate(rows, f=max(1, f), z=1.5)[0],
}
only = dict.fromkeys(("sign_flip", "alie", "alie_z"), HONEST)
record("krum", FUNCTIONS, enumerating={"mda"}, only=only)
