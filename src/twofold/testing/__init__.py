"""For tests: given/when/then, a world whose clock a test controls, and the contracts that prove a store.

The contracts need pytest and hypothesis, so they are in separate modules:
`twofold.testing.write_store_contract` and `twofold.testing.read_store_contract`.
"""

from twofold.testing.frozen_world import FrozenWorld
from twofold.testing.kit import DecisionSpec, ProjectionSpec, spec

__all__ = ["DecisionSpec", "FrozenWorld", "ProjectionSpec", "spec"]
