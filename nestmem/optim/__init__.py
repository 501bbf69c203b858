"""Optimizers that are memories of gradients, for training (torch.optim) and, in `inner`, for memories to write with."""

from nestmem.optim import inner
from nestmem.optim.dgd import DGD
from nestmem.optim.dmgd import DMGD
from nestmem.optim.m3 import M3
from nestmem.optim.momentum import DeltaMomentum, Momentum
from nestmem.optim.muon import Muon

__all__ = ["DGD", "DMGD", "M3", "DeltaMomentum", "Momentum", "Muon", "inner"]
