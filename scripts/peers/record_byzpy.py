"""Record what byzpy's rules and attacks give, called in this process and without its pools of actors."""

from byzpy.aggregators.coordinate_wise import CoordinateWiseMedian, CoordinateWiseTrimmedMean, MeanOfMedians
from byzpy.aggregators.geometric_wise.geometric_median import GeometricMedian
from byzpy.aggregators.geometric_wise.krum import Krum, MultiKrum
from byzpy.aggregators.geometric_wise.minimum_diameter_average import MinimumDiameterAveraging
from byzpy.aggregators.geometric_wise.monna import MoNNA
from byzpy.aggregators.geometric_wise.smea import SMEA
from byzpy.aggregators.norm_wise.caf import CAF
from byzpy.aggregators.norm_wise.center_clipping import CenteredClipping
from byzpy.aggregators.norm_wise.comparative_gradient_elimination import ComparativeGradientElimination
from byzpy.attacks.empire import EmpireAttack
from byzpy.attacks.little import LittleAttack
from byzpy.attacks.mimic import MimicAttack
from byzpy.attacks.sign_flip import SignFlipAttack
from byzpy.pre_aggregators import ARC, Bucketing, Clipping, NearestNeighborMixing
from recording import HONEST, record

FUNCTIONS = {
    "median": lambda rows, f: CoordinateWiseMedian().aggregate(list(rows)),
    "trimmed_mean": lambda rows, f: CoordinateWiseTrimmedMean(f).aggregate(list(rows)),
    "meamed": lambda rows, f: MeanOfMedians(f).aggregate(list(rows)),
    "geometric_median": lambda rows, f: GeometricMedian().aggregate(list(rows)),
    "krum": lambda rows, f: Krum(f).aggregate(list(rows)),
    "multi_krum": lambda rows, f: MultiKrum(f, q=len(rows) - f).aggregate(list(rows)),
    "centered_clipping": lambda rows, f: CenteredClipping(c_tau=1.0, M=3, init="zero").aggregate(list(rows)),
    "centered_clipping_default": lambda rows, f: CenteredClipping(c_tau=1.0).aggregate(list(rows)),
    "mda": lambda rows, f: MinimumDiameterAveraging(f).aggregate(list(rows)),
    "monna": lambda rows, f: MoNNA(f, reference_index=0).aggregate(list(rows)),
    "smea": lambda rows, f: SMEA(f).aggregate(list(rows)),
    "caf": lambda rows, f: CAF(f).aggregate(list(rows)),
    "caf_long": lambda rows, f: CAF(f, power_iters=1000).aggregate(list(rows)),
    "cge": lambda rows, f: ComparativeGradientElimination(f).aggregate(list(rows)),
    "nnm": lambda rows, f: NearestNeighborMixing(f).pre_aggregate(list(rows)),
    "bucketing": lambda rows, f: Bucketing(2, perm=range(len(rows))).pre_aggregate(list(rows)),
    "clipping": lambda rows, f: Clipping(threshold=2.0).pre_aggregate(list(rows)),
    "arc": lambda rows, f: ARC(f).pre_aggregate(list(rows)),
    "sign_flip": lambda rows, f: SignFlipAttack().apply(base_grad=rows[0]),
    "ipm": lambda rows, f: EmpireAttack(scale=-0.5).apply(honest_grads=list(rows)),
    "alie": lambda rows, f: LittleAttack(max(1, f)).apply(honest_grads=list(rows)),
    "mimic": lambda rows, f: MimicAttack().apply(honest_grads=list(rows)),
}
only = {"bucketing": ("unit",), **dict.fromkeys(("sign_flip", "ipm", "alie", "mimic"), HONEST)}
record("byzpy", FUNCTIONS, enumerating={"mda", "smea"}, only=only)
