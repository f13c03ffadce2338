"""Steps before the rule, one file a paper. Each returns a matrix that mixes the rows."""

from fedpoison.defences.preaggregators import arc as arc
from fedpoison.defences.preaggregators import bucketing as bucketing
from fedpoison.defences.preaggregators import clipping as clipping
from fedpoison.defences.preaggregators import nnm as nnm
