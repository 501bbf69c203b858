"""Optimizers that are memories of gradients, for training (torch.optim) and, in `inner`, for memories to write with.

All but `Momentum` are matrix methods. They share these options, in the constructor or in a parameter group:

    lr, weight_decay   the step, and decoupled decay: W <- (1 - lr weight_decay) W - ...
    adam               True: this group goes by Adam. Say so for embeddings and output heads, which are matrices too
    adam_ratio         Adam's rate over lr for vectors (0.1), and a scheduler moves both; an `adam` group takes lr
    adam_betas, adam_eps

Vectors and scalars always go by Adam; tensors of more dimensions (convolutions) are flattened to [O, the rest].

>>> import torch
>>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 10))
>>> groups = [
...     {"params": model[1].parameters()},
...     {"params": [*model[0].parameters(), *model[2].parameters()], "adam": True, "lr": 3e-3},
... ]
>>> optimizer = Muon(groups, lr=0.02)
"""

from nestmem.optim import inner
from nestmem.optim.dgd import DGD
from nestmem.optim.dmgd import DMGD
from nestmem.optim.m3 import M3
from nestmem.optim.matrices import VectorOptions
from nestmem.optim.momentum import DeltaMomentum, Momentum
from nestmem.optim.muon import Muon

__all__ = ["DGD", "DMGD", "M3", "DeltaMomentum", "Momentum", "Muon", "VectorOptions", "inner"]
