"""Attacks on the updates, one file a paper."""

from fedpoison.attacks.updates import alie as alie
from fedpoison.attacks.updates import ipm as ipm
from fedpoison.attacks.updates import left_out as left_out
from fedpoison.attacks.updates import min_max as min_max
from fedpoison.attacks.updates import model_replacement as model_replacement
from fedpoison.attacks.updates import simple as simple
