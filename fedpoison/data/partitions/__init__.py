"""Ways to split samples over clients; each sample goes to one client at the most."""

from fedpoison.data.partitions import by_label as by_label
from fedpoison.data.partitions import dirichlet as dirichlet
from fedpoison.data.partitions import label_bias as label_bias
from fedpoison.data.partitions import natural as natural
