"""The training loop: resumable at any step, and deterministic."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel

from s2d_trt.errors import OptionError
from s2d_trt.spec import ModelSpec
from s2d_trt.training.checkpoint import Vocabulary
from s2d_trt.training.model import new_model
from s2d_trt.training.objective import Objective
from s2d_trt.training.recipe import Recipe
from s2d_trt.training.trainer import Trainer
from s2d_trt.training.windows import Stream, Windows

SPEC = ModelSpec.llama(hidden=16, layers=2, heads=2, kv_heads=1, ffn=24, vocab=300, tied=True)
RECIPE = Recipe(
    exits=(1, 2),
    objective=Objective((1.0, 1.0), distill=0.5, align=0.1),
    steps=4,
    batch_windows=4,
    micro_windows=2,
    lr=1e-2,
    precision="fp32",
    distill_from=0.5,
)
TOKENS = Stream.whole(np.random.default_rng(0).integers(0, 40, 400))


class StoppedError(Exception):
    """Stands for a run that was killed."""


def trainer(
    state: Path, vocabulary: Vocabulary, recipe: Recipe = RECIPE, teacher_seed: int | None = None, data_seed: int = 0
) -> Trainer:
    wider = dataclasses.replace(SPEC, hidden_size=24)
    teacher = None if teacher_seed is None else new_model(wider, 16, (2,), teacher_seed, vocabulary)
    model = new_model(SPEC, 16, recipe.exits, recipe.seed, vocabulary)
    return Trainer(model, recipe, Windows(TOKENS, 16, data_seed), state, teacher, compile_layers=False)


def stop_after(run: Trainer, steps: int) -> None:
    """Train until ``steps`` are saved, then die as a killed process does."""
    save = run.save

    def save_and_stop() -> None:
        save()
        if run.step == steps:
            raise StoppedError

    run.save = save_and_stop  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        run.train(save_every=1, progress=False)


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    model: PreTrainedModel = run.exits.model
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_and_resumed_run_gives_the_same_bits(tmp_path: Path, vocabulary: Vocabulary, stop: int) -> None:
    whole = trainer(tmp_path / "whole", vocabulary, teacher_seed=5)
    whole.train(progress=False)
    stop_after(trainer(tmp_path / "parts", vocabulary, teacher_seed=5), stop)
    resumed = trainer(tmp_path / "parts", vocabulary, teacher_seed=5)
    resumed.train(progress=False)
    assert resumed.step == whole.step == RECIPE.steps
    ours, theirs = weights(resumed), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_resumes_on_a_numbered_device_as_processes_on_a_cpu_have(
    tmp_path: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(trainer(tmp_path / "state", vocabulary), 2)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu:0")
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        resumed = trainer(tmp_path / "state", vocabulary)
        assert resumed.accelerator.device == torch.device("cpu:0")
        resumed.train(progress=False)
        assert resumed.step == RECIPE.steps
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("stop", [1, 2])
def test_windows_grow_and_a_resumed_run_gives_the_same_bits(tmp_path: Path, vocabulary: Vocabulary, stop: int) -> None:
    recipe = dataclasses.replace(RECIPE, stretch=2, stretch_from=0.5, precision="bf16", objective=Objective((1.0, 1.0)))
    assert [recipe.stretch_at(step) for step in range(recipe.steps)] == [1, 1, 2, 2]
    whole = trainer(tmp_path / "whole", vocabulary, recipe)
    shapes = []
    run_pass = whole._pass

    def record(inputs: torch.Tensor, labels: torch.Tensor, counted: int) -> torch.Tensor:
        shapes.append(tuple(inputs.shape))
        return run_pass(inputs, labels, counted)

    whole._pass = record  # type: ignore[method-assign]
    whole.train(progress=False)
    assert shapes == [(2, 16)] * 4 + [(1, 32)] * 4
    stop_after(trainer(tmp_path / "parts", vocabulary, recipe), stop)
    resumed = trainer(tmp_path / "parts", vocabulary, recipe)
    resumed.train(progress=False)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(resumed).values(), strict=True))


def test_windows_that_cannot_grow_evenly_are_refused() -> None:
    with pytest.raises(OptionError, match="windows 4 times as long do not share out"):
        dataclasses.replace(RECIPE, stretch=4)


def test_a_finished_run_is_not_trained_further(tmp_path: Path, vocabulary: Vocabulary) -> None:
    first = trainer(tmp_path / "state", vocabulary)
    first.train(progress=False)
    again = trainer(tmp_path / "state", vocabulary)
    assert again.train(progress=False) == []
    assert all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(again).values(), strict=True))


def test_training_lowers_the_loss_of_every_exit(tmp_path: Path, vocabulary: Vocabulary) -> None:
    recipe = dataclasses.replace(RECIPE, steps=8)
    run = trainer(tmp_path / "state", vocabulary, recipe)
    start = run.train_step()
    run.step = 0
    assert all(after < before - 0.2 for before, after in zip(start, run.train(progress=False), strict=True))


def test_a_batch_is_the_same_step_however_it_is_split(tmp_path: Path, vocabulary: Vocabulary) -> None:
    one = trainer(tmp_path / "one", vocabulary, dataclasses.replace(RECIPE, micro_windows=4))
    two = trainer(tmp_path / "two", vocabulary)
    assert one.train_step() == pytest.approx(two.train_step(), rel=1e-5)


def test_the_hooks_are_gone_after_training(tmp_path: Path, vocabulary: Vocabulary) -> None:
    run = trainer(tmp_path / "state", vocabulary)
    run.train(progress=False)
    run.close()
    assert not any(layer._forward_hooks for layer in run.exits.model.model.layers)


def test_the_smallest_numbers_are_numbers_again_after_training(tmp_path: Path, vocabulary: Vocabulary) -> None:
    trainer(tmp_path / "state", vocabulary).train(progress=False)
    assert sys.float_info.min / 2 > 0


def test_nothing_but_the_state_is_left_beside_it(tmp_path: Path, vocabulary: Vocabulary) -> None:
    trainer(tmp_path / "deep" / "state", vocabulary).train(save_every=1, progress=False)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["state"]


@pytest.mark.parametrize("change", ["recipe", "data", "teacher"])
def test_the_state_of_another_run_is_refused(tmp_path: Path, vocabulary: Vocabulary, change: str) -> None:
    stop_after(trainer(tmp_path / "state", vocabulary, teacher_seed=5), 1)
    saved = (tmp_path / "state").read_bytes()
    other = trainer(
        tmp_path / "state",
        vocabulary,
        dataclasses.replace(RECIPE, lr=2e-2) if change == "recipe" else RECIPE,
        teacher_seed=6 if change == "teacher" else 5,
        data_seed=1 if change == "data" else 0,
    )
    with pytest.raises(OptionError, match="belongs to a run with other settings or data; delete it"):
        other.train(progress=False)
    assert (tmp_path / "state").read_bytes() == saved


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut short"])
def test_a_damaged_state_is_refused(tmp_path: Path, vocabulary: Vocabulary, content: bytes) -> None:
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(OptionError, match="is no saved run"):
        trainer(tmp_path / "state", vocabulary).train(progress=False)


def test_a_pass_that_does_not_fit_names_the_remedies(
    tmp_path: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path / "state", vocabulary)

    def no_memory() -> list[float]:
        raise torch.OutOfMemoryError("of a GPU")

    monkeypatch.setattr(run, "train_step", no_memory)
    with pytest.raises(OptionError, match="lower --micro-batch or --seq-length, or add --gradient-checkpointing"):
        run.train(progress=False)


def test_the_projection_to_a_wider_teacher_is_trained_and_not_part_of_the_draft(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    run = trainer(tmp_path / "state", vocabulary, teacher_seed=5)
    projection = run.student.projection.weight
    before = projection.detach().clone()
    run.train(progress=False)
    assert not torch.equal(projection, before)
    assert not [name for name in weights(run) if "projection" in name]


@pytest.mark.parametrize("hidden", [16, 24])
def test_only_a_teacher_of_another_width_needs_a_projection(
    tmp_path: Path, vocabulary: Vocabulary, hidden: int
) -> None:
    teacher = new_model(dataclasses.replace(SPEC, hidden_size=hidden), 16, (2,), 5, vocabulary)
    model = new_model(SPEC, 16, RECIPE.exits, 0, vocabulary)
    run = Trainer(model, RECIPE, Windows(TOKENS, 16, 0), tmp_path / "state", teacher, compile_layers=False)
    assert (run.student.projection is None) == (hidden == SPEC.hidden_size)


def test_pre_training_leaves_the_shallow_exits_out(tmp_path: Path, vocabulary: Vocabulary) -> None:
    plain = dataclasses.replace(RECIPE, objective=Objective.last_exit(2), distill_from=0.0)
    run = trainer(tmp_path / "plain", vocabulary, plain)
    pretrained = trainer(tmp_path / "soft", vocabulary, dataclasses.replace(RECIPE, pretrain_steps=1))
    assert run.train_step() == pretrained.train_step()
    assert all(torch.equal(a, b) for a, b in zip(weights(run).values(), weights(pretrained).values(), strict=True))
    run.step = pretrained.step = 1
    run.train_step(), pretrained.train_step()
    ours, theirs = weights(run), weights(pretrained)
    assert not torch.equal(ours["model.layers.0.mlp.up_proj.weight"], theirs["model.layers.0.mlp.up_proj.weight"])


def test_recomputing_the_layers_changes_no_gradient(tmp_path: Path, vocabulary: Vocabulary) -> None:
    kept, recomputed = (trainer(tmp_path / name, vocabulary) for name in ("kept", "recomputed"))
    recomputed.exits.model.activation_checkpointing_enable()
    assert kept.train_step() == recomputed.train_step()
    assert all(torch.equal(a, b) for a, b in zip(weights(kept).values(), weights(recomputed).values(), strict=True))


def test_tokens_that_do_not_count_change_nothing(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """Every token that counts weighs the same, also where the passes of a batch hold different numbers of them."""
    mask = np.arange(len(TOKENS)) % 50 < 20

    def first_step(micro: int) -> tuple[list[float], dict[str, torch.Tensor]]:
        recipe = dataclasses.replace(RECIPE, micro_windows=micro)
        windows = Windows(Stream(TOKENS.ids, mask), 16, 0)
        run = Trainer(
            new_model(SPEC, 16, RECIPE.exits, 0, vocabulary),
            recipe,
            windows,
            tmp_path / str(micro),
            compile_layers=False,
        )
        return run.train_step(), weights(run)

    (losses, ours), (expected, theirs) = first_step(1), first_step(4)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in ours)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_weight_is_trained(tmp_path: Path, vocabulary: Vocabulary, optimizer: str) -> None:
    run = trainer(tmp_path / "state", vocabulary, dataclasses.replace(RECIPE, optimizer=optimizer))
    before = weights(run)
    run.train(progress=False)
    after = weights(run)
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_the_learning_rate_warms_up_and_ends_at_its_floor() -> None:
    recipe = dataclasses.replace(RECIPE, steps=100, warmup=0.1, final_lr=0.05)
    rates = [recipe.lr_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(recipe.lr / 10)
    assert max(rates) == rates[9] == rates[10] == recipe.lr
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.05 * recipe.lr)


def test_a_recipe_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(OptionError, match="no multiple of the micro-batch 3"):
        dataclasses.replace(RECIPE, micro_windows=3)
    with pytest.raises(OptionError, match="2 exit weights for 1 exits"):
        dataclasses.replace(RECIPE, exits=(2,))
    with pytest.raises(OptionError, match="5 steps of pre-training are more than all 4"):
        dataclasses.replace(RECIPE, pretrain_steps=5)


@pytest.mark.parametrize("lr", [1e30, 1e38])
def test_training_that_diverges_ends_with_an_error_and_saves_nothing_after_it(
    tmp_path: Path, vocabulary: Vocabulary, lr: float
) -> None:
    state = tmp_path / "state"
    run = trainer(state, vocabulary, dataclasses.replace(RECIPE, lr=lr, steps=8), teacher_seed=5)
    with pytest.raises(OptionError, match=r"training diverged: .* nothing is published"):
        run.train(progress=False)
    run.close()
    assert not state.exists()


def test_a_saved_state_that_is_not_finite_is_not_gone_on_from(tmp_path: Path, vocabulary: Vocabulary) -> None:
    state = tmp_path / "state"
    run = trainer(state, vocabulary, teacher_seed=5)
    stop_after(run, 2)
    run.close()
    saved = torch.load(state, weights_only=True)
    next(iter(saved["student"].values())).view(-1)[0] = float("nan")
    torch.save(saved, state)
    run = trainer(state, vocabulary, teacher_seed=5)
    with pytest.raises(OptionError, match="training diverged"):
        run.train(progress=False)
    run.close()
