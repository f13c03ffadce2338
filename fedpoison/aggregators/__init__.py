"""Aggregation rules, one file a paper."""

from fedpoison.aggregators import bulyan as bulyan
from fedpoison.aggregators import caf as caf
from fedpoison.aggregators import centered_clipping as centered_clipping
from fedpoison.aggregators import cge as cge
from fedpoison.aggregators import dnc as dnc
from fedpoison.aggregators import geometric_median as geometric_median
from fedpoison.aggregators import krum as krum
from fedpoison.aggregators import left_out as left_out
from fedpoison.aggregators import mda as mda
from fedpoison.aggregators import meamed as meamed
from fedpoison.aggregators import mean as mean
from fedpoison.aggregators import median as median
from fedpoison.aggregators import signs as signs
from fedpoison.aggregators import smea as smea
from fedpoison.aggregators import trimmed_mean as trimmed_mean
