"""One client after the other, by autograd and torch's SGD, one thread: what most research code does."""

import sys

import numpy as np
import torch
from work import Clock, Work, train

work, clock = Work(sys.argv[1]), Clock()
torch.set_num_threads(1)
net, params = work.module(), torch.from_numpy(work.params)
data = [tuple(map(torch.from_numpy, map(np.array, work.shard(i)))) for i in range(work.clients)]
for number in range(1, work.rounds + 1):
    total = torch.zeros_like(params)
    for client, (images, labels) in enumerate(data):
        torch.nn.utils.vector_to_parameters(params.clone(), net.parameters())
        train(net, images, labels, work.batches(number, client), work.lr)
        total += torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    params = total / work.clients
    clock.round_ended()
clock.report(work, "plain", params.numpy())
