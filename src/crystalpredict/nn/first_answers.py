"""Which of two networks computes: that of NumPy as long as there is little to do, then that of torch."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from crystalpredict.crystals.crystal import Neighbors
from crystalpredict.nn.devices import runs_on_cpu
from crystalpredict.nn.numpy_network import NumpyNetwork, can_compute
from crystalpredict.nn.weights import Weights

# for one network; an edge takes NumPy 3 us, so that these take 1.8 s, a little less than importing torch and making its
# network take on the same core (2.1 s). On one core torch would be quicker in total only from some millions on, on 16
# from 700,000 on.
MOST_EDGES = 600_000
DIRECTIONS = 4  # times as long for an edge, with directions
PAIRS_PER_EDGE = 16  # of atoms of one crystal, whose products take as long as an edge
EDGES_OF_A_CRYSTAL = 250  # typical, in files of the Materials Project's structures: 4.5 listed atoms with 55 neighbours


class FirstAnswers:
    """Hands out NumPy's network until all it was given would take about as long as importing torch."""

    def __init__(self, source: object, device: str) -> None:
        """Choose.

        Args:
            source: of a checkpoint's network.
            device: name, as for `choose_device`.
        """
        self.weights: Weights | None = None
        if isinstance(source, Weights) and can_compute(source.config) and runs_on_cpu(device):
            self.weights = source
            self.left = MOST_EDGES // (source.config.members * (DIRECTIONS if source.config.vectors else 1))
        self.network: NumpyNetwork | None = None

    def network_for(self, neighbors: Sequence[Neighbors]) -> NumpyNetwork | None:
        """Return the network that computes crystals with these neighbour lists; None, now and later, if torch does."""
        cost = sum(len(edges.indices) + edges.size**2 // PAIRS_PER_EDGE for edges in neighbors)
        if not self.weights or not self._suffices(cost):
            return None
        self.left -= cost
        if self.network is None:
            self.network = NumpyNetwork(self.weights)
        return self.network

    def expect(self, sources: int) -> bool:
        """Return whether NumPy suffices for so many sources, of which some may be read already."""
        return self._suffices(sources * EDGES_OF_A_CRYSTAL)

    def _suffices(self, cost: int) -> bool:
        """Return whether NumPy has time for some edges, and torch is not imported anyway; forget its weights if not."""
        if self.weights and (cost > self.left or "torch" in sys.modules):
            self.weights = self.network = None
        return self.weights is not None


@contextmanager
def quick_imports() -> Iterator[None]:
    """Disable garbage collection in the block, which takes a seventh of the time of importing torch."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
