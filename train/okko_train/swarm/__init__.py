"""The particle swarm: where to evaluate next, learned from what the last evaluations cost.

Read in this order: `core` (ask and tell), `settings` (every choice and its default), `learning` (the default rule),
`classical` (the rules of the literature), `topology` (who informs whom), `box` (starts and walls).
"""

from okko_train.swarm.core import Swarm
from okko_train.swarm.settings import Settings, Stop

__all__ = ["Settings", "Stop", "Swarm"]
