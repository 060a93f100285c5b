import csv
import json
import subprocess
import sys
import weakref
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from crystalpredict._schema import SchemaError, record
from crystalpredict.checkpoints.checkpoint import Checkpoint
from crystalpredict.crystals.crystal import FloatArray, IntArray
from crystalpredict.data.dataset import CrystalTable, NeighborTable, neighbor_table
from crystalpredict.errors import DataError, UsageError
from crystalpredict.nn import Crystalformer, ModelConfig
from crystalpredict.nn.threads import balanced_split
from crystalpredict.properties import Property
from crystalpredict.training.config import TrainingConfig, learning_rate
from crystalpredict.training.cuda_graph import CapturedStep, FixedBatches
from crystalpredict.training.losses import summed_loss
from crystalpredict.training.optimizer import READOUTS, Muon
from crystalpredict.training.run_folder import Progress, kept_state, log_epoch
from crystalpredict.training.trainer import Interrupted, Trainer
from tests.in_process import SCRIPTS, run_script
from tests.sample_crystals import batch_of, random_crystal, random_table

MODEL = ModelConfig(blocks=2, width=32, heads=4, feedforward=64, readout=32)
TWO_PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
CONFIG = TrainingConfig(
    properties=("formation_energy", "bulk_modulus"), epochs=3, batch_atoms=20, split_atoms=12, repeat_rare=2,
    learning_rate=2e-3, schedule="one_cycle", ema=0.9,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[CrystalTable, NeighborTable]:
    """40 crystals; the energy is a function of the elements, and one in ten has a modulus."""
    table = random_table(40)
    return table, neighbor_table(table, MODEL.radius, tmp_path_factory.mktemp("neighbors"))


class Stop(Exception):
    pass


@pytest.mark.parametrize("muon_rate", [0.0, 4.0])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(data, tmp_path: Path, muon_rate: float) -> None:
    config = replace(CONFIG, muon_rate=muon_rate)
    whole = Trainer(tmp_path / "whole", *data, MODEL, config)
    whole.run(lambda progress: None)

    def stop(progress: Progress) -> None:
        if progress.step == 20:
            raise Stop

    broken = Trainer(tmp_path / "broken", *data, MODEL, config)
    with pytest.raises(Stop):
        broken.run(stop, save_every=0.0)
    assert 0 < broken.position < len(broken.data.order(broken.epoch))
    resumed = Trainer(tmp_path / "broken", *data, MODEL, config)
    assert resumed.step == 19  # the state of the step before: the twentieth was not saved
    resumed.run(lambda progress: None)
    assert resumed.step == whole.step
    for (name, one), two in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    for name, one in kept_state(tmp_path / "whole").items():
        assert torch.equal(one, kept_state(tmp_path / "broken")[name]), name


def test_a_run_killed_between_the_last_step_of_an_epoch_and_its_end_goes_on(data, tmp_path: Path) -> None:
    training = Trainer(tmp_path, *data, MODEL, replace(CONFIG, epochs=1))
    training.position = len(training.data.order(0))
    training.save()
    resumed = Trainer(tmp_path, *data, MODEL, replace(CONFIG, epochs=1))
    resumed.run(lambda progress: None)
    assert (resumed.epoch, resumed.step, resumed.position) == (1, 0, 0)


def test_the_loss_decreases_and_is_logged(data, tmp_path: Path) -> None:
    training = Trainer(tmp_path, *data, MODEL, replace(CONFIG, epochs=12))
    seen: list[Progress] = []
    training.run(seen.append)
    ends = [progress for progress in seen if progress.errors]
    assert ends[-1].loss < 0.6 * ends[0].loss
    assert ends[-1].errors["formation_energy"] < ends[0].errors["formation_energy"]
    assert seen[-1].done == 1
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert rows[0] == "epoch,step,seconds,learning_rate,loss,formation_energy,bulk_modulus"
    assert len(rows) == 13


def test_a_property_may_have_the_name_of_a_column_of_the_log(tmp_path: Path) -> None:
    log_epoch(tmp_path, ["loss", "gap"], Progress(1, 10, 0.5, 0.25, 1e-3, 7.0, errors={"loss": 2.0, "gap": 3.0}))
    (row,) = csv.DictReader((tmp_path / "log.csv").read_text().splitlines())
    assert (float(row["loss"]), float(row["loss_error"]), float(row["gap"])) == (0.25, 2.0, 3.0)


def test_a_missing_label_has_no_gradient(data, tmp_path: Path) -> None:
    """Only the modulus has a label in row 3; the weights that make the energy alone must not feel it, nor a NaN."""
    table, neighbors = data
    labels = table.labels.copy()
    labels[3, 0] = np.nan
    training = Trainer(tmp_path, replace(table, labels=labels), neighbors, MODEL, replace(CONFIG, weight_decay=0.0))
    before = training.model.readout[2].weight.detach().clone()
    training._update(np.array([3]), 1e-3)
    after = training.model.readout[2].weight
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    assert all(torch.isfinite(parameter).all() for parameter in training.model.parameters())


def test_the_split_of_a_step_does_not_change_it(data, tmp_path: Path) -> None:
    rows = np.arange(30)
    weights = []
    for atoms in (5, 1000):
        training = Trainer(tmp_path / str(atoms), *data, MODEL, replace(CONFIG, split_atoms=atoms))
        training._update(rows, 1e-3)
        weights.append(torch.cat([parameter.flatten() for parameter in training.model.parameters()]))
    assert torch.allclose(*weights, atol=1e-5)


@pytest.mark.parametrize("attention", ["real", "framed"])
def test_a_batch_of_fixed_shape_does_not_change_a_step(data, tmp_path: Path, attention: str) -> None:
    """As a CUDA graph takes it (tests/gpu): with empty slots and room for more crystals than there are."""
    table, _ = data
    model = replace(MODEL, attention=attention)
    neighbors = neighbor_table(table, model.radius, merging=model.merging)
    weights, outputs = [], []
    for fixed in (False, True):
        training = Trainer(tmp_path / str(fixed), table, neighbors, model, replace(CONFIG, muon_rate=2.0))
        steps = list(training.data.steps(training.data.order(0)))
        if fixed:
            batches = FixedBatches(table, neighbors, steps, torch.device("cpu"))
            assert batches.place(np.arange(40)) is None
            training.captured = CapturedStep(batches, 2, training._captured_update)
        losses = [float(training._update(rows, 1e-5)) for rows in steps[:2]]
        outputs.append(training.predict(np.arange(40), training.average))
        assert not training.captured or training.captured.steps == 2
        weights.append(torch.cat([p.detach().flatten() for p in training.average.parameters()]))
    assert losses[0] != losses[1]
    assert torch.allclose(weights[0], weights[1], rtol=0, atol=2e-6)
    assert np.allclose(outputs[0], outputs[1], rtol=1e-4)


def test_a_batch_of_fixed_shape_holds_its_example_steps_if_crystals_share_no_bin(data) -> None:
    table, neighbors = data
    rows = np.flatnonzero(np.diff(neighbors.sites) > 2)
    assert len(rows) > 15
    batches = FixedBatches(table, neighbors, [rows], torch.device("cpu"))
    assert batches.slots == 5
    assert batches.place(rows) is not None


def test_crystals_too_large_for_a_batch_of_fixed_shape_are_predicted(data, tmp_path: Path) -> None:
    """Bins of the size of the largest crystals, and one bin a batch, which each of them more than half fills."""
    table, neighbors = data
    training = Trainer(tmp_path, table, neighbors, MODEL, CONFIG)
    expected = training.predict(np.arange(40), training.average)
    batches = FixedBatches(table, neighbors, [np.array([0])], torch.device("cpu"))
    assert (batches.bins, batches.slots) == (1, 5)
    batches.fitting &= batches.sizes < 5
    training.captured = CapturedStep(batches, 2, training._captured_update)
    assert np.allclose(training.predict(np.arange(40), training.average), expected, rtol=1e-4)
    for row in range(5):
        one = training.predict(np.array([row]), training.average)
        assert np.allclose(one, expected[row], rtol=1e-4)


def test_the_number_of_threads_does_not_change_a_step(data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crystalpredict.training.trainer.MIN_THREAD_ATOMS", 1)
    steps, errors = [], []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        training = Trainer(tmp_path / str(threads), *data, MODEL, CONFIG)
        assert len(training._positions_of_threads(np.arange(30))) == threads
        loss = training._compute_gradients(np.arange(30))
        gradients = [parameter.grad.flatten() for parameter in training.model.parameters()]
        steps.append(torch.cat([loss.view(1), *gradients]))
        errors.append(training.errors(training.data.validation_rows)[0])
        assert torch.get_num_threads() == threads
    assert torch.allclose(*steps, rtol=1e-4, atol=1e-6)
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.lists(st.integers(1, 100), max_size=40), st.integers(1, 7))
def test_balanced_split_is_even_and_uses_each_item_once(weights: list[int], groups: int) -> None:
    shares = balanced_split(np.array(weights, dtype=int), groups)
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(weights)))
    sums = [sum(weights[position] for position in share) for share in shares]
    assert max(sums) - min(sums) <= max(weights, default=0)


def test_the_gradient_is_proportional_to_the_weight_of_a_property(data, tmp_path: Path) -> None:
    """The gradient of a weighted mean: of two labels with weights 3 and 1, three quarters and a quarter."""
    gradients = []
    for weights in ({}, {"formation_energy": 3.0}):
        training = Trainer(tmp_path / str(len(weights)), *data, MODEL, replace(CONFIG, weights=weights))
        training._compute_gradients(np.array([3]))  # has both labels
        gradients.append(training.model.readout[2].bias.grad)
    assert gradients[1] / gradients[0] == pytest.approx([1.5, 0.5], rel=1e-5)
    with pytest.raises(UsageError, match="bandgap"):
        Trainer(tmp_path / "unknown", *data, MODEL, replace(CONFIG, weights={"bandgap": 1.0}))


def test_an_epoch_shows_every_crystal_once_and_rare_labels_more_often(data, tmp_path: Path) -> None:
    training = Trainer(tmp_path, *data, MODEL, CONFIG)
    order = np.concatenate(list(training.data.steps(training.data.order(0))))
    shown = np.bincount(order, minlength=40)
    assert shown[:34].tolist() == [2 if row % 10 == 3 else 1 for row in range(34)]
    assert shown[34:].sum() == 0
    assert training.data.order(0).tolist() != training.data.order(1).tolist()


ONLY_TORCH_AND_NUMPY = """
import sys, runpy
blocked = ("pymatgen", "spglib", "vesin", "safetensors", "typer", "rich", "pandas", "scipy")
sys.modules.update(dict.fromkeys(blocked))  # as if they were not installed
script, *arguments = sys.argv[1:]
for epochs in (1, 2):
    sys.argv = ["train.py", *(argument.format(epochs=epochs) for argument in arguments)]
    runpy.run_path(script, run_name="__main__")
"""


def test_training_needs_torch_and_numpy_only_and_resumes(data, tmp_path: Path) -> None:
    data[0].save(tmp_path / "crystals.npz")
    command = [
        sys.executable, "-c", ONLY_TORCH_AND_NUMPY, str(SCRIPTS / "train.py"), str(tmp_path / "crystals.npz"),
        str(tmp_path / "run"), "--set", "epochs={epochs}", 'properties=["formation_energy"]', "--model", "blocks=1",
        "width=16", "heads=2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("100.0%") == 2
    epochs_logged = [row.split(",")[0] for row in (tmp_path / "run" / "log.csv").read_text().splitlines()]
    assert epochs_logged == ["epoch", "1", "2"]


def test_learning_rates_of_both_schedules() -> None:
    paper = TrainingConfig()
    assert learning_rate(paper, 0, 0.0) == 5e-4
    assert learning_rate(paper, 12_000, 0.5) == pytest.approx(2.5e-4)
    cycle = TrainingConfig(schedule="one_cycle", learning_rate=1e-3, warmup=0.1)
    assert learning_rate(cycle, 0, 0.05) == pytest.approx(5e-4)
    assert learning_rate(cycle, 0, 0.1) == pytest.approx(1e-3)
    assert learning_rate(cycle, 0, 1.0) == pytest.approx(0, abs=1e-12)


def test_unusable_labels_and_settings_are_named(data, tmp_path: Path) -> None:
    table, neighbors = data
    with pytest.raises(UsageError, match="unknown target 'bandgap'"):
        Trainer(tmp_path, table, neighbors, MODEL, replace(CONFIG, properties=("bandgap",)))
    with pytest.raises(DataError, match="no crystal with a usable label"):
        Trainer(tmp_path, replace(table, labels=table.labels * np.nan), neighbors, MODEL, CONFIG)
    constant = replace(table, labels=np.ones_like(table.labels))
    with pytest.raises(DataError, match="formation_energy: training needs labels of at least two values"):
        Trainer(tmp_path, constant, neighbors, MODEL, CONFIG)
    with pytest.raises(UsageError, match="cuda:99"):
        Trainer(tmp_path, table, neighbors, MODEL, replace(CONFIG, device="cuda:99"))
    diverged = Trainer(tmp_path / "diverged", table, neighbors, MODEL, CONFIG)
    before = (tmp_path / "diverged" / "state.npz").read_bytes()
    with torch.no_grad():
        diverged.model.readout[2].bias.fill_(torch.inf)
    with pytest.raises(DataError, match=r"loss is not a number at step \d"):
        diverged.run(lambda progress: None, save_every=0)
    assert (tmp_path / "diverged" / "state.npz").read_bytes() == before
    ruined = Trainer(tmp_path / "ruined", table, neighbors, MODEL, replace(CONFIG, patience=2))
    with torch.no_grad():
        ruined.average.readout[2].bias.fill_(torch.nan)
    with pytest.raises(DataError, match="validation error is not a number at step 0"):
        ruined.run(lambda progress: None)
    with pytest.raises(SchemaError, match="'epoch', which is unknown; did you mean 'epochs'"):
        record({"epoch": 3}, TrainingConfig)


def test_a_run_is_resumed_only_with_the_same_data_and_settings(data, tmp_path: Path) -> None:
    table, neighbors = data
    Trainer(tmp_path, *data, MODEL, CONFIG)
    Trainer(tmp_path, *data, MODEL, replace(CONFIG, split_atoms=7, epochs=9))
    fewer = replace(table, labels=np.where(np.arange(len(table))[:, None] < 3, np.nan, table.labels))
    for changed, said in (
        ((*data, MODEL, replace(CONFIG, ema=0.5)), f"ema was {CONFIG.ema} when this run began, and is 0.5 now"),
        ((*data, MODEL, replace(CONFIG, properties=("bulk_modulus", "formation_energy"))), "properties was"),
        ((*data, replace(MODEL, radial_basis=9), CONFIG), "radial_basis was 64"),
        ((fewer, neighbors, MODEL, CONFIG), "train crystals was"),
        ((replace(table, labels=2 * table.labels), neighbors, MODEL, CONFIG), "checksum of the data was"),
    ):
        with pytest.raises(UsageError, match=said):
            Trainer(tmp_path, *changed)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UsageError, match="missing or damaged"):
        Trainer(tmp_path, *data, MODEL, CONFIG)


def test_a_step_that_does_not_fit_is_halved_after_its_memory_is_freed(data, tmp_path: Path) -> None:
    config = replace(CONFIG, batch_atoms=400, split_atoms=400)
    whole, halved = (Trainer(tmp_path / name, *data, MODEL, config) for name in ("whole", "halved"))
    held: list[weakref.ref[Tensor]] = []

    def without_room(module: nn.Module, inputs: tuple[Tensor]) -> None:
        if halved.split_atoms > 100:
            assert not any(features() is not None for features in held)
            held.append(weakref.ref(inputs[0]))
            raise torch.OutOfMemoryError("CUDA out of memory")

    halved.model.readout.register_forward_pre_hook(without_room)
    rows = next(whole.data.steps(whole.data.order(0)))
    losses = [float(training._update(rows, 1e-3)) for training in (whole, halved)]
    assert halved.split_atoms == 100
    assert len(held) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(whole.model.parameters(), halved.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_an_interruption_does_not_change_the_log_and_also_works_during_validation(
    data, tmp_path: Path, stop_at: int
) -> None:
    config = replace(CONFIG, epochs=3, batch_atoms=60)
    whole, broken = (Trainer(tmp_path / name, *data, MODEL, config) for name in ("whole", "broken"))
    whole.run(lambda progress: None)
    update, predicted = broken._update, broken.predict

    def stop_after_step(rows: IntArray, rate: float) -> torch.Tensor:
        broken.interrupted |= broken.step == stop_at
        return update(rows, rate)

    def stop_while_validating(rows: IntArray, model: Crystalformer) -> FloatArray:
        broken.interrupted = True
        return predicted(rows, model)

    broken._update = stop_after_step
    with pytest.raises(Interrupted):
        broken.run(lambda progress: None)
    broken = Trainer(tmp_path / "broken", *data, MODEL, config)
    for _ in range(3):
        if not broken.finished:
            predicted, broken.predict = broken.predict, stop_while_validating
            with pytest.raises(Interrupted):
                broken.run(lambda progress: None)
            broken = Trainer(tmp_path / "broken", *data, MODEL, config)
    assert broken.finished
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "broken")]
    without_seconds = [[row.split(",")[:2] + row.split(",")[3:] for row in log] for log in logs]
    assert without_seconds[0] == without_seconds[1]


def test_a_run_killed_before_its_first_state_begins_again(data, tmp_path: Path, monkeypatch) -> None:
    """A state without its config.json could not be resumed, so that it comes last."""
    with monkeypatch.context() as killed:
        killed.setattr(Trainer, "save", lambda training: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Trainer(tmp_path, *data, MODEL, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert Trainer(tmp_path, *data, MODEL, CONFIG).step == 0


def test_errors_match_the_predictions(data, tmp_path: Path) -> None:
    """Never below the least that physics allows."""
    table = replace(data[0], properties=tuple(replace(prop, minimum=10.0) for prop in data[0].properties))
    training = Trainer(tmp_path, table, data[1], MODEL, CONFIG)
    rows = training.data.validation_rows
    scaled, in_unit = training.errors(rows)
    for column, prop in enumerate(training.properties):
        if prop.transform == "none":
            expected = np.nanmean(np.abs(10.0 - training.data.encoded[rows, column]))
            assert scaled[prop.name] == in_unit[prop.name] == pytest.approx(expected)


def test_a_state_that_is_damaged_is_named_in_one_line(data, tmp_path: Path) -> None:
    Trainer(tmp_path, *data, MODEL, CONFIG)
    path = tmp_path / "state.npz"
    whole = path.read_bytes()
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    odd: list[bytes | dict[str, np.ndarray]] = [b"", b"PK", whole[:1000], whole[: len(whole) // 2], b"x" * 5000]
    for name in ("scale", "position", "error", "model/embedding.weight", "average/embedding.weight"):
        odd.append({key: value for key, value in arrays.items() if key != name})
        odd += [arrays | {name: value} for value in (np.array("x"), np.zeros(0), np.full((3, 3), np.nan))]
    for content in odd:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.savez(path, **content)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"state\.npz: damaged: start the run again") as caught:
            Trainer(tmp_path, *data, MODEL, CONFIG)
        assert "\n" not in str(caught.value)
    np.savez_compressed(path, **arrays | {"losses": np.zeros(10**7)})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="damaged"):
        Trainer(tmp_path, *data, MODEL, CONFIG)


@pytest.mark.parametrize(
    "wrong", [[], {}, {"model": 7}, {"crystals": []}, {"properties": "bandgap"}, {"training": None}]
)
def test_the_config_of_a_run_that_is_damaged_is_named(data, tmp_path: Path, wrong: object) -> None:
    Trainer(tmp_path, *data, MODEL, CONFIG)
    path = tmp_path / "config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | wrong if wrong and isinstance(wrong, dict) else wrong))
    with pytest.raises(UsageError, match=r"config\.json is missing or damaged"):
        Trainer(tmp_path, *data, MODEL, CONFIG)


@pytest.mark.parametrize(
    "wrong", [{"freeze_encoder": "False"}, {"epochs": 2.5}, {"learning_rate": ".001"}, {"seed": ""}, {"epochs": True}]
)
def test_a_setting_of_another_type_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SchemaError, match=f"{next(iter(wrong))} is .*: expected "):
        record(wrong, TrainingConfig)
    assert record({"learning_rate": 1, "properties": ["bandgap"]}, TrainingConfig).learning_rate == 1


def test_without_early_stopping_the_last_weights_are_kept(data, tmp_path: Path) -> None:
    training = Trainer(tmp_path, *data, MODEL, replace(CONFIG, epochs=12, learning_rate=5e-3, ema=0.0))
    best: list[int] = []
    training.run(lambda progress: best.append(progress.epoch) if progress.best else None)
    assert best[-1] < training.final_epoch == training.epoch == 12
    for one, two in zip(training.final_network().parameters(), training.average.parameters(), strict=True):
        assert torch.equal(one, two)


def test_early_stopping_keeps_the_best_weights_also_after_an_interruption(data, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=60, patience=3, learning_rate=5e-3, schedule="inverse_sqrt", ema=0.0)
    seen: list[Progress] = []
    whole = Trainer(tmp_path / "whole", *data, MODEL, config)
    whole.run(seen.append)
    ends = [progress for progress in seen if progress.errors]
    assert [end.epoch for end in ends] == list(range(whole.epoch + 1))  # that of the start is the first
    assert whole.epoch < 60
    assert [end.epoch for end in ends if end.best][-1] == whole.final_epoch == whole.epoch - 3
    last, whole.average = (
        whole.average,
        whole.final_network(),
    )  # errors of the best epoch, not of the last
    assert whole.errors(whole.data.validation_rows)[0] == pytest.approx(ends[whole.final_epoch].errors)
    assert whole.errors(whole.data.validation_rows)[0] != pytest.approx(ends[-1].errors)
    whole.average = last

    broken = Trainer(tmp_path / "broken", *data, MODEL, config)

    def stop(progress: Progress) -> None:
        broken.interrupted = progress.epoch == whole.final_epoch and progress.errors is not None

    with pytest.raises(Interrupted):
        broken.run(stop)
    resumed = Trainer(tmp_path / "broken", *data, MODEL, config)
    assert (resumed.final_epoch, resumed.step) == (whole.final_epoch, broken.step)
    resumed.run(lambda progress: None)
    assert (resumed.epoch, resumed.final_epoch) == (whole.epoch, whole.final_epoch)
    for one, two in zip(
        whole.final_network().state_dict().values(), resumed.final_network().state_dict().values(), strict=True
    ):
        assert torch.equal(one, two)
    for name, weights in kept_state(tmp_path / "whole").items():  # what scripts/export.py takes
        assert torch.equal(weights, whole.final_network().state_dict()[name])
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "broken")]
    errors = [[row.split(",")[4:] for row in log] for log in logs]
    assert errors[0][1][1:] == errors[1][1][1:]
    assert len(logs[0]) == len(logs[1]) == whole.epoch + 1


@pytest.fixture(scope="module")
def start(data, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    training = Trainer(tmp_path_factory.mktemp("start"), *data, MODEL, CONFIG)
    training.run(lambda progress: None)
    return Checkpoint(
        "start", training.final_network(), training.properties, training.data.mean, training.data.deviation, {}
    )


def test_a_run_that_starts_from_a_checkpoint_begins_with_its_predictions(data, start, tmp_path: Path) -> None:
    """In another order, beside a new property, on shifted labels: the known outputs are those of the checkpoint."""
    table, neighbors = data
    hardness = Property("hardness", "hardness", "GPa", "GPa")
    labels = np.stack([table.labels[:, 1], np.arange(40.0), table.labels[:, 0] + 7], axis=1)
    properties = (table.properties[1], hardness, table.properties[0])
    other = replace(table, labels=labels, properties=properties)
    config = replace(CONFIG, properties=())
    training = Trainer(tmp_path, other, neighbors, start.model.config, config, start=start)
    rows = np.arange(10)
    with torch.no_grad():
        outputs = np.concatenate([training.average(batch).numpy() for _, batch in training.data.batches(rows, 1000)])
        before = np.concatenate([start.model(batch).numpy() for _, batch in training.data.batches(rows, 1000)])
    after = outputs * training.data.deviation + training.data.mean
    expected = before * start.deviation + start.mean
    assert after[:, [2, 0]] == pytest.approx(expected, abs=1e-5)
    assert after[:, 1] == pytest.approx(np.full(10, 16.5), abs=1e-5)  # the mean of the labels of 34 training rows


def test_directions_added_to_a_checkpoint_change_nothing_at_first_and_then_learn(data, start, tmp_path: Path) -> None:
    table, neighbors = data
    framed = replace(start.model.config, attention="framed")
    edges = neighbor_table(table, MODEL.radius, merging="rotations")
    training = Trainer(tmp_path, table, edges, framed, replace(CONFIG, epochs=1), start=start)
    rows = np.arange(10)
    plain = Trainer(tmp_path / "plain", table, neighbors, start.model.config, replace(CONFIG, epochs=1), start=start)
    assert training.predict(rows, training.model) == pytest.approx(plain.predict(rows, plain.model), abs=1e-4)
    training.run(lambda progress: None)
    learnt = [value.abs().max() for name, value in training.model.named_parameters() if "direction" in name]
    assert len(learnt) == MODEL.blocks
    assert min(learnt) > 1e-4
    with pytest.raises(RuntimeError, match="Missing key"):
        Trainer(tmp_path / "more", *data, replace(start.model.config, blocks=3), CONFIG, start=start)


def test_two_stages_are_not_trained_as_one_network(data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="train each, and join them"):
        Trainer(tmp_path, *data, replace(MODEL, stages=2), CONFIG)


def test_a_run_begins_with_both_readouts_of_its_base_and_both_are_learnt(data, start, tmp_path: Path) -> None:
    """Of the base's outputs those that are trained are kept."""
    torch.manual_seed(8)
    network = Crystalformer(replace(start.model.config, readout_of_states=7)).eval()
    network.load_state_dict(network.state_dict() | start.model.state_dict())
    base = replace(start, source=network)
    config = replace(CONFIG, properties=("formation_energy",), freeze_encoder=True, epochs=1)
    training = Trainer(tmp_path, *data, network.config, config, start=base)
    batch = batch_of(random_crystal(3), radius=MODEL.radius).to("cpu", torch.float32)
    column = [prop.name for prop in base.properties].index("formation_energy")
    with torch.no_grad():
        assert torch.allclose(training.model(batch)[:, 0], network(batch)[:, column], atol=1e-6)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.run(lambda progress: None)
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith(READOUTS), name


def test_a_frozen_encoder_stays_as_it_was(data, start, tmp_path: Path) -> None:
    config = replace(CONFIG, freeze_encoder=True, epochs=1)
    training = Trainer(tmp_path, *data, start.model.config, config, start=start)
    training.run(lambda progress: None)
    for name, value in training.final_network().state_dict().items():
        assert torch.equal(value, start.model.state_dict()[name]) != name.startswith("readout"), name
    assert training.step == Trainer(tmp_path, *data, start.model.config, config, start=start).step > 0


@pytest.mark.parametrize(
    ("loss", "ratio"),
    [("l1", 200), ("mse", 200**2), ("huber", (20 - 0.5) / (0.5 * 0.1**2)), ("log", np.log(41) / np.log(1.2))],
)
def test_losses_have_the_right_values(data, tmp_path: Path, loss: str, ratio: float) -> None:
    training = Trainer(tmp_path, *data, MODEL, replace(CONFIG, loss=loss))
    output = torch.zeros(2, 1)
    small, large = (float(training._loss(output, torch.tensor([[size], [torch.nan]]))) for size in (0.1, 20.0))
    assert large / small == pytest.approx(ratio, rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one(data, tmp_path: Path) -> None:
    """With torchrun and gloo on the CPU: the same losses and errors to 1e-4, and one set of files."""
    data[0].save(tmp_path / "crystals.npz")
    settings = [
        "--threads", "1", "--set", "epochs=4", "batch_atoms=20", "split_atoms=8", "learning_rate=2e-3",
        "schedule=one_cycle", "patience=4", "--model", "blocks=2", "width=32", "heads=4", "feedforward=64",
    ]  # fmt: skip
    run_script("train.py", tmp_path / "crystals.npz", tmp_path / "one", *settings)
    command = [*TWO_PROCESSES, str(SCRIPTS / "train.py"), str(tmp_path / "crystals.npz"), str(tmp_path / "two")]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = ("one", "two")
    logs = {name: np.genfromtxt(tmp_path / name / "log.csv", delimiter=",", names=True) for name in names}
    for column in ("epoch", "step", "loss", "formation_energy", "bulk_modulus"):
        assert logs["two"][column] == pytest.approx(logs["one"][column], abs=1e-4, nan_ok=True), column
    weights = [kept_state(tmp_path / name) for name in names]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-4), name


def run_in_two_processes(table: CrystalTable, folder: Path, config: str, lines: str) -> None:
    """Run a few lines under torchrun: they have a `training` of the table, with that config, and the `folder`."""
    table.save(folder / "crystals.npz")
    script = folder / "script.py"
    script.write_text(f"""
from pathlib import Path
from crystalpredict.training import distributed
from crystalpredict.data.dataset import CrystalTable, neighbor_table
from crystalpredict.nn import ModelConfig
from crystalpredict.training.trainer import Interrupted, Trainer
from crystalpredict.training.config import TrainingConfig
folder = Path({str(folder)!r})
table = CrystalTable.load(folder / "crystals.npz")
model = ModelConfig(blocks=1, width=32, heads=4, feedforward=64)
neighbors = neighbor_table(table, model.radius)
training = Trainer(folder / "run", table, neighbors, model, {config})
{lines}""")
    done = subprocess.run([*TWO_PROCESSES, str(script)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_keep_no_gradients_with_a_loss_and_both_stop_if_one_is_interrupted(data, tmp_path: Path) -> None:
    """Losses are kept for an epoch: 4 MB each, 7 GB in all, when they were views of the sum."""
    lines = """
losses = Trainer(folder / "losses", table, neighbors, model, TrainingConfig())
loss = losses._update(losses.data.train_rows[:8], 1e-3)
assert loss.untyped_storage().nbytes() == loss.nbytes
training.interrupted = distributed.rank() == 1
try:
    training.run(lambda progress: None)
except Interrupted:
    (folder / f"stopped{distributed.rank()}").write_text(str(training.step))
distributed.leave_group()
"""
    run_in_two_processes(data[0], tmp_path, "TrainingConfig(batch_atoms=20, epochs=2)", lines)
    assert [(tmp_path / f"stopped{rank}").read_text() for rank in (0, 1)] == ["1", "1"]
    assert int(np.load(tmp_path / "run" / "state.npz")["position"][1]) == 1


def test_the_encoder_rate_scales_the_steps_of_the_encoder(data, tmp_path: Path) -> None:
    """Adam's first step is the rate for every weight, whatever its gradient."""
    config = replace(CONFIG, epochs=1, schedule="inverse_sqrt", learning_rate=1e-3, encoder_rate=0.1, weight_decay=0.0)
    training = Trainer(tmp_path, *data, MODEL, config)
    before = {name: value.detach().clone() for name, value in training.model.named_parameters()}
    training._update(training.data.train_rows[:8], 1e-3)
    for name, value in training.model.named_parameters():
        moved = float((value.detach() - before[name]).abs().max())
        expected = 1e-3 if name.startswith("readout.") else 1e-4
        assert moved == pytest.approx(expected, rel=0.01), name


def test_muon_steps_are_nearly_orthogonal_matrices(data, tmp_path: Path) -> None:
    """Its step is nearly orthogonal: singular values within 0.5 to 1.5 of 0.2 sqrt(largest side) times its rate."""
    config = replace(CONFIG, schedule="inverse_sqrt", learning_rate=1e-3, muon_rate=5.0, weight_decay=0.0)
    training = Trainer(tmp_path, *data, MODEL, config)
    before = {name: value.detach().clone() for name, value in training.model.named_parameters()}
    training._update(training.data.train_rows, 1e-3)
    for name, value in training.model.named_parameters():
        moved = value.detach() - before[name]
        if name.startswith("blocks.") and name.endswith(("value.weight", "output.weight", "0.weight", "2.weight")):
            values = torch.linalg.svdvals(moved) / (5e-3 * 0.2 * max(moved.shape) ** 0.5)
            assert float(values.max()) < 1.5, name
            assert float(values.median()) > 0.5, name
        else:
            assert float(moved.abs().max()) == pytest.approx(1e-3, rel=0.01), name


def test_muon_in_single_precision_agrees_with_that_of_torch() -> None:
    random = torch.Generator().manual_seed(0)
    shapes = [(384, 128), (128, 128), (128, 512), (384, 128)]
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.3}
    optimisers = Muon([{"params": ours, **settings}], 0.0), torch.optim.Muon(
        [{"params": theirs, **settings}], adjust_lr_fn="match_rms_adamw"
    )  # fmt: skip
    for _ in range(3):
        for one, two in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=random)
            two.grad = one.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for one, two in zip(ours, theirs, strict=True):
        assert float((one - two).detach().norm()) < 0.02 * float((one - 1).detach().norm())  # its half precision
        mean, expected = optimisers[0].state[one]["momentum_buffer"], optimisers[1].state[two]["momentum_buffer"]
        assert torch.allclose(mean, expected, atol=1e-6)


def test_initial_weights_are_kept_if_no_epoch_improves_them(data, start, tmp_path: Path) -> None:
    config = replace(CONFIG, properties=("formation_energy",), patience=2, learning_rate=1.0, schedule="inverse_sqrt")
    training = Trainer(tmp_path, *data, start.model.config, config, start)
    with suppress(DataError):  # the loss may be no number any more
        training.run(lambda progress: None)
    assert training.final_epoch == 0
    for name, value in start.model.state_dict().items():
        if not name.startswith("readout.2."):
            assert torch.equal(training.final_network().state_dict()[name], value), name


def test_a_property_may_have_a_loss_of_its_own() -> None:
    output = torch.tensor([[1.0, 3.0], [0.5, 0.0]])
    target = torch.tensor([[0.0, 1.0], [0.0, torch.nan]])
    absolute, squared = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.5])
    found = summed_loss({"l1": absolute, "mse": squared}, output, target)
    assert float(found) == pytest.approx(2 * 1.5 + 0.5 * 4)
