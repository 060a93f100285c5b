import pytest
import torch

from crystalpredict._schema import record
from crystalpredict.nn import Crystalformer, ModelConfig, attention
from crystalpredict.nn.attention import radial_basis
from crystalpredict.nn.terms import radial_columns
from tests.sample_crystals import batch_of, random_crystal


def parameters(config: ModelConfig) -> int:
    return sum(parameter.numel() for parameter in Crystalformer(config).parameters())


def test_parameter_counts_are_those_of_the_paper() -> None:
    assert parameters(ModelConfig()) == 853_505
    assert parameters(ModelConfig(blocks=7)) == 1_471_766 - 7 * 3  # upstream counts 3 untrained numbers a block
    assert parameters(ModelConfig(radial_basis=0)) == 820_749 - 4 * 3


def test_initialisation_is_t_fixup() -> None:
    torch.manual_seed(0)
    model = Crystalformer(ModelConfig(blocks=4))
    attention, feedforward = model.blocks[1].attention, model.blocks[1].feedforward
    query, key, value = attention.query_key_value.weight.chunk(3)
    bounds = [
        (query, 0.1531), (key, 0.1531), (value, 0.0725), (attention.output.weight, 0.0725),
        (feedforward[0].weight, 0.0459), (feedforward[2].weight, 0.0459), (attention.radial_weights, 0.0221),
    ]  # fmt: skip
    for weight, bound in bounds:
        assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert model.embedding.weight.std().item() == pytest.approx(0.03608, rel=0.03)
    assert attention.width_weights.std().item() == pytest.approx(0.25, rel=0.2)
    assert attention.query_key_value.bias.abs().max() == feedforward[0].bias.abs().max() == 0


def test_a_network_without_width_norm_gives_no_number() -> None:
    batch = batch_of(random_crystal(0), radius=6.0)
    assert torch.isnan(Crystalformer(ModelConfig(blocks=1)).double()(batch)).all()


def test_width_norm_gives_the_argument_mean_0_and_deviation_1() -> None:
    torch.manual_seed(1)
    model = Crystalformer(ModelConfig(blocks=2)).double()
    crystals = [random_crystal(seed, n_atoms=5) for seed in range(20)]
    batch = batch_of(*crystals, radius=6.0)
    model.fit_width_norm(batch)
    attention = model.blocks[0].attention
    state = model.embed(batch)[batch.crystals < len(crystals)]
    query = attention.query_key_value(state)[:, :128].view(-1, 8, 16)
    scale, shift = attention.width_norm
    u = ((query * attention.width_weights).sum(-1) + shift) * scale
    assert u.mean().item() == pytest.approx(0, abs=1e-10)
    assert u.std(correction=0).item() == pytest.approx(1, abs=1e-10)


def test_basis_functions_left_out_are_zero_for_every_edge() -> None:
    short, full = ModelConfig(radius=6.0), ModelConfig(radius=40.0)
    distances = torch.linspace(0, 6.0, 200, dtype=torch.float64)
    columns = radial_columns(short)
    assert columns < radial_columns(full) == 64
    assert radial_basis(distances, full)[:, columns:].max() < 4e-4
    assert torch.equal(radial_basis(distances, full)[:, :columns], radial_basis(distances, short))


def test_radial_basis_holds_no_subnormal_number() -> None:
    values = radial_basis(torch.linspace(0, 14, 5000), ModelConfig())
    assert values[values > 0].min() > 1e-21


def test_several_outputs_and_float32_follow_float64() -> None:
    torch.manual_seed(2)
    model = Crystalformer(ModelConfig(outputs=5))
    batch = batch_of(*(random_crystal(seed) for seed in range(6)), radius=6.0)
    model.fit_width_norm(batch.to("cpu", torch.float32))
    with torch.no_grad():
        single = model(batch.to("cpu", torch.float32))
        double = model.double()(batch)
    assert single.shape == (6, 5)
    assert torch.allclose(single.double(), double, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 100}, "multiple"),
        ({"blocks": 0}, "blocks is 0: expected an integer >= 1"),
        ({"radius": -1.0}, "radius is -1.0: expected a number > 0.0"),
        ({"rho_bound": 1.0}, "rho_bound is 1.0: expected a number < 1.0"),
    ],
)
def test_impossible_configs_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record(change, ModelConfig)


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'heads'"):
        record({"head": 8}, ModelConfig)


def test_a_large_bin_attends_to_neighbours_alone_with_equal_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(2)
    model = Crystalformer(ModelConfig(blocks=2, outputs=2)).double()
    batch = batch_of(*(random_crystal(seed, n_atoms=3 + 9 * seed) for seed in range(4)), radius=5.0)
    model.fit_width_norm(batch)
    results = []
    for slots, edges in ((10**9, 1), (0, 10**9), (0, 300)):  # dense; neighbours alone; the same, a few rows at a time
        monkeypatch.setattr(attention, "MAX_DENSE_SLOTS", slots)
        monkeypatch.setattr(attention, "EDGES_PER_CHUNK", edges)
        model.zero_grad()
        output = model(batch)
        output.square().sum().backward()
        results.append(
            (output.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        )
    for output, gradient in results[1:]:
        assert torch.allclose(output, results[0][0], atol=1e-12)
        assert torch.allclose(gradient, results[0][1], atol=1e-11)
    assert results[0][1].abs().max() > 0
