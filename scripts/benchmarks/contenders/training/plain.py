"""One client after the other, by autograd and torch's SGD, one thread: what most research code does.

As a robust rule needs them, all updates are kept in a matrix before they are averaged.
"""

import sys

import numpy as np
import torch
from work import Clock, Work, train

work, clock = Work(sys.argv[1]), Clock()
torch.set_num_threads(1)
net, params = work.module(), torch.from_numpy(work.params)
data = [tuple(map(torch.from_numpy, map(np.array, work.shard(i)))) for i in range(work.clients)]
for number in range(1, work.rounds + 1):
    updates = torch.empty(work.clients, len(params))
    for client, (images, labels) in enumerate(data):
        torch.nn.utils.vector_to_parameters(params.clone(), net.parameters())
        train(net, images, labels, work.batches(number, client), work.lr)
        updates[client] = torch.nn.utils.parameters_to_vector(net.parameters()).detach() - params
    params = params + updates.mean(dim=0)
    clock.round_ended()
clock.report(work, "1 thread", params.numpy())
