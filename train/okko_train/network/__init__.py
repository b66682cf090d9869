"""A small feed-forward network in numpy: dense layers, nothing else.

Read `activations`, then `model` (what a network is), then `backpropagation` (one batch), then `training` (many).
Costs and optimizers stand beside this package; training by a swarm is in `okko_train.swarm_training`.
"""

from okko_train.network.gradient_check import check_gradient
from okko_train.network.model import Layer, Network
from okko_train.network.training import History, TrainingDivergedError, fit

__all__ = ["History", "Layer", "Network", "TrainingDivergedError", "check_gradient", "fit"]
