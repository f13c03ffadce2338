"""Attacks on the data, one file a paper."""

from fedpoison.attacks.data import adversarial_poisoning as adversarial_poisoning
from fedpoison.attacks.data import badnets as badnets
from fedpoison.attacks.data import blended as blended
from fedpoison.attacks.data import bullseye_polytope as bullseye_polytope
from fedpoison.attacks.data import dba as dba
from fedpoison.attacks.data import edge_case as edge_case
from fedpoison.attacks.data import feature_collision as feature_collision
from fedpoison.attacks.data import feature_trigger as feature_trigger
from fedpoison.attacks.data import hidden_trigger as hidden_trigger
from fedpoison.attacks.data import label_consistent as label_consistent
from fedpoison.attacks.data import label_flip as label_flip
from fedpoison.attacks.data import left_out as left_out
from fedpoison.attacks.data import noisy_samples as noisy_samples
from fedpoison.attacks.data import sig as sig
from fedpoison.attacks.data import targeted_flip as targeted_flip
from fedpoison.attacks.data import token_trigger as token_trigger
from fedpoison.attacks.data import wanet as wanet
from fedpoison.attacks.data import witches_brew as witches_brew
