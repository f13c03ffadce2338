"""Steps before the rule, one file a paper. Each returns a matrix that mixes the rows."""

from fedpoison.preaggregators import arc as arc
from fedpoison.preaggregators import bucketing as bucketing
from fedpoison.preaggregators import clipping as clipping
from fedpoison.preaggregators import nnm as nnm
