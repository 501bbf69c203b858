"""What a memory is: state, objective, optimizer, period, memory."""

from nestmem.core.memory import Memory, MemoryState
from nestmem.core.model import MLP, Linear, Model, Network, Weights
from nestmem.core.objective import L2, Dot, Huber, Loss, Lp, Objective
from nestmem.core.optimizer import (
    Adam,
    DeltaGradientDescent,
    Gates,
    GradientDescent,
    InnerOptimizer,
    Momentum,
    NewtonSchulz,
    newton_schulz,
    unit,
)
from nestmem.core.period import Period
from nestmem.core.state import State, load_state, save_state, state, static

__all__ = [
    "L2",
    "MLP",
    "Adam",
    "DeltaGradientDescent",
    "Dot",
    "Gates",
    "GradientDescent",
    "Huber",
    "InnerOptimizer",
    "Linear",
    "Loss",
    "Lp",
    "Memory",
    "MemoryState",
    "Model",
    "Momentum",
    "Network",
    "NewtonSchulz",
    "Objective",
    "Period",
    "State",
    "Weights",
    "load_state",
    "newton_schulz",
    "save_state",
    "state",
    "static",
    "unit",
]
