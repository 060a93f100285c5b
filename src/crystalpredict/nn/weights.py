"""Weights of a network as arrays, from which the network in torch is made when it is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from crystalpredict.crystals.crystal import ELEMENTS
from crystalpredict.nn.config import ModelConfig

if TYPE_CHECKING:
    from crystalpredict.nn.ensemble import Network


@dataclass(frozen=True)
class Weights:
    """Weights that fit the network of a config.

    Attributes:
        config: of the network.
        arrays: by the names of the network's `state_dict()`, in the precision of their file.
    """

    config: ModelConfig
    arrays: dict[str, NDArray[Any]]

    @property
    def members(self) -> list[Weights]:
        """Weights of each network of an ensemble; those of a network alone."""
        return self._parts("members", self.config.members)

    @property
    def stages(self) -> list[Weights]:
        """Weights of the networks for given and relaxed crystals; those of a network, or ensemble, for both."""
        return self._parts("stages", self.config.stages)

    def _parts(self, kind: str, count: int) -> list[Weights]:
        if count == 1:
            return [self]
        one = replace(self.config, members=1, stages=1)
        found: list[Weights] = []
        for own in (f"{kind}.{number}." for number in range(count)):
            mine = {name.removeprefix(own): self.arrays[name] for name in self.arrays if name.startswith(own)}
            found.append(Weights(one, mine))
        return found

    def network(self) -> Network:
        """Return the network in evaluation mode, on the CPU and in single precision."""
        import torch

        from crystalpredict.nn.ensemble import network_of

        with torch.device("cpu"):
            model = network_of(self.config).float()  # the defaults of the caller may be others
        model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in self.arrays.items()})
        return model.eval()


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of a config's network by their names in its `state_dict()`."""
    for kind, count in (("stages", config.stages), ("members", config.members)):
        if count > 1:
            one = shapes_of(replace(config, members=1, stages=1)).items()
            return {f"{kind}.{number}.{name}": shape for number in range(count) for name, shape in one}
    width = config.width
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (len(ELEMENTS), width)}
    for number in range(config.blocks):
        block = f"blocks.{number}"
        shapes |= _shapes_of_attention(config, f"{block}.attention", config.real_heads(number))
        shapes |= _linear(f"{block}.feedforward.0", width, config.feedforward)
        shapes |= _linear(f"{block}.feedforward.2", config.feedforward, width)
    shapes |= _linear("readout.0", width, config.readout) | _linear("readout.2", config.readout, config.outputs)
    if hidden := config.readout_of_states:
        shapes |= _linear("readout_of_states.0", config.states, hidden)
        shapes |= _linear("readout_of_states.2", hidden, config.outputs)
    if points := config.kernel_points:
        shapes |= {f"kernel.{name}": (config.kernel_inputs,) for name in ("shift", "scale")}
        shapes |= {"kernel.points": (points, config.kernel_inputs), "kernel.weights": (config.outputs, points)}
    return shapes


def _shapes_of_attention(config: ModelConfig, name: str, real_heads: int) -> dict[str, tuple[int, ...]]:
    width, channels = config.width, config.width // config.heads
    shapes = _linear(f"{name}.query_key_value", width, 3 * width) | _linear(f"{name}.output", width, width)
    shapes |= {f"{name}.width_weights": (config.heads, channels), f"{name}.width_norm": (2,)}
    if config.radial_basis and real_heads:
        shapes[f"{name}.radial_weights"] = (real_heads, channels, config.radial_basis)
    if config.attention == "framed":
        shapes[f"{name}.direction_weights"] = (3, config.heads, channels, config.direction_basis)
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
