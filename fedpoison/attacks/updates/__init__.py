"""Attacks on the updates, one file a paper."""

from fedpoison.attacks.updates import alie as alie
from fedpoison.attacks.updates import broken as broken
from fedpoison.attacks.updates import fang_krum as fang_krum
from fedpoison.attacks.updates import fang_trimmed_mean as fang_trimmed_mean
from fedpoison.attacks.updates import idle as idle
from fedpoison.attacks.updates import ipm as ipm
from fedpoison.attacks.updates import left_out as left_out
from fedpoison.attacks.updates import mimic as mimic
from fedpoison.attacks.updates import min_max as min_max
from fedpoison.attacks.updates import model_replacement as model_replacement
from fedpoison.attacks.updates import mpaf as mpaf
from fedpoison.attacks.updates import pga as pga
from fedpoison.attacks.updates import poisonedfl as poisonedfl
from fedpoison.attacks.updates import rop as rop
from fedpoison.attacks.updates import simple as simple
from fedpoison.attacks.updates import tailored as tailored
