"""Nets, and how their parameters become one vector."""

from fedpoison.models import lstm as lstm
from fedpoison.models import resnet as resnet
from fedpoison.models import small as small
