"""The arithmetic of the strategies: what is masked, projected, held, stored and told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.regularization import LearningWithoutForgetting
from torch import nn
from torch.utils.data import TensorDataset

from learners.batch import collate
from learners.strategies.agem import GradientProjection
from learners.strategies.anchors import Penalty, PerWeight
from learners.strategies.base import NoReplay, ReplayedRow, StrategyConfig
from learners.strategies.derpp import LogitStore
from learners.strategies.er_ace import present_loss
from learners.strategies.lwf import KindDistillation
from learners.strategies.replaying import ReplayMixing
from learners.strategies.rows import BalancedRows, KeptRow, Sampled
from learners.strategies.si import PathIntegral
from learners.tasks import task_kind
from learners.template import MicroBatch, StreamTemplate
from tests.learning import example
from tests.small import small_encoder, small_learner

CLASSIFY, MULTILABEL = task_kind("classify"), task_kind("multilabel")


def test_the_asymmetric_loss_leaves_absent_labels_alone() -> None:
    logits = torch.tensor([[2.0, 1.0, 5.0], [0.0, 1.0, 5.0]], requires_grad=True)
    loss = present_loss(CLASSIFY, logits, ["a", "b"], head=["a", "b", "absent"])
    right = nn.functional.cross_entropy(logits[:, :2], torch.tensor([0, 1]))
    assert torch.equal(loss, right)
    [gradient] = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient[:, 2], torch.zeros(2))
    several = present_loss(MULTILABEL, logits, [("a",), ()], head=["a", "b", "absent"])
    [gradient] = torch.autograd.grad(several, logits)
    assert torch.equal(gradient[:, 1:], torch.zeros(2, 2))
    assert present_loss(MULTILABEL, logits, [(), ()], head=["a", "b", "absent"]) == 0.0


def config(**settings: Any) -> StrategyConfig:
    return StrategyConfig(
        kind=CLASSIFY, encoder=small_encoder(), **{"replay": NoReplay(), **settings}
    )


@pytest.mark.parametrize(("gradient", "projected"), [((1.0, -2.0), (1.0, 0.0)), ((1, 2), (1, 2))])
def test_a_gradient_that_harms_memory_is_projected(
    gradient: tuple[float, float], projected: tuple[float, float]
) -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([gradient], dtype=torch.float32)
    plugin = GradientProjection(config())
    plugin._reference = {"weight": torch.tensor([[0.0, 3.0]])}
    plugin.after_backward(SimpleNamespace(model=model))  # type: ignore[arg-type]
    assert model.weight.grad.tolist()[0] == pytest.approx(projected, abs=1e-6)


def test_stored_logits_stay_within_their_numbers_and_those_go_that_nobody_asks_for() -> None:
    store = LogitStore(300)
    for n in range(400):
        store.offer([f"e{n}"], torch.full((1, 3), float(n)))
        assert store.get("e7") is not None or n < 7  # it is replayed all the time
    kept = {n for n in range(400) if store.get(f"e{n}") is not None}
    assert len(store) == 100
    assert kept == {7, *range(301, 400)}
    heir = LogitStore(300)
    heir.restore(*store.state())
    for one in (store, heir):
        one.offer(["late"], torch.ones(1, 6))  # logits are longer now: room for 50
        assert len(one) == 50
    assert heir.state()[1] == store.state()[1]


def test_greedy_balance_makes_room_for_what_is_rare() -> None:
    store = BalancedRows(6, seed=0)
    store.offer([KeptRow(f"a{n}", (1,), "a") for n in range(20)])
    store.offer([KeptRow(f"b{n}", (1, 2), "b") for n in range(20)])
    store.offer([KeptRow(f"c{n}", (3,), ("c",)) for n in range(2)])
    assert Counter(row.label for row in store.rows) == {"a": 2, "b": 2, ("c",): 2}
    corrected = next(row for row in store.rows if row.label == "a")
    store.offer([KeptRow(corrected.id, (1,), "b")])
    assert Counter(row.label for row in store.rows) == {"a": 1, "b": 3, ("c",): 2}
    heir = BalancedRows(6, seed=5)
    heir.restore(*store.state())
    assert heir.rows == store.rows


def test_a_sample_is_uniform_over_its_experience() -> None:
    places: Counter[str] = Counter()
    for seed in range(300):
        sample = Sampled(4, seed=seed)
        sample.offer([KeptRow(str(n), (n,), "a") for n in range(16)])
        places.update(row.id for row in sample.rows)
    assert all(40 < places[str(n)] < 115 for n in range(16))  # 75 expected, 4.6 deviations


def test_a_penalty_s_own_gradient_is_taken_out_again() -> None:
    model = nn.Linear(3, 2)
    penalty = Penalty(0.7)
    penalty.anchor.copy(model)
    penalty.importance.get("weight", model.weight).fill_(2.0)
    with torch.no_grad():
        model.weight.add_(0.5)
    task = model(torch.ones(1, 3)).square().sum()
    (alone,) = torch.autograd.grad(task, [model.weight], retain_graph=True)
    (task + penalty.loss(model)).backward()
    assert not torch.allclose(model.weight.grad, alone)  # type: ignore[arg-type]
    torch.testing.assert_close(penalty.task_gradient("weight", model.weight), alone)


def test_what_is_kept_of_a_head_is_padded_at_its_end() -> None:
    kept = PerWeight()
    kept.get("head.weight", torch.empty(2, 3)).fill_(1.0)
    grown = kept.get("head.weight", torch.empty(4, 3))
    assert grown.tolist() == [[1.0] * 3] * 2 + [[0.0] * 3] * 2


def micro_batch(rows: int) -> MicroBatch:
    return MicroBatch(
        packed=collate([[n + 1] for n in range(rows)]),
        labels=("a",) * rows,
        previous=(None,) * rows,
        held_out=(False,) * rows,
        ids=tuple(str(n) for n in range(rows)),
    )


class Sums(nn.Module):
    """A quadratic bowl: squared error of one weight a row."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, -1.0]))

    def forward(self, packed: torch.Tensor) -> torch.Tensor:
        return self.weight.unsqueeze(0).expand(len(packed), -1)


def test_the_path_integral_is_worth_what_the_loss_fell() -> None:
    """With small steps downhill the sum over weights is the whole fall (Zenke, equation 3)."""
    plugin = PathIntegral(config())
    model = Sums()
    plugin.attach(SimpleNamespace(model=model))  # type: ignore[arg-type]
    template = StreamTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.005),
        criterion=lambda outputs, targets: (outputs - targets).square().sum(),
        device=torch.device("cpu"),
        plugins=[plugin],
    )
    losses = [template.learn(micro_batch(1), torch.zeros(1, 2)) for _ in range(200)]
    fallen = float(plugin._path.get("weight", model.weight).sum())
    assert fallen == pytest.approx(losses[0] - losses[-1], rel=0.02)


def test_distillation_of_one_label_has_the_gradient_of_avalanche_s() -> None:
    ours, theirs = KindDistillation(CLASSIFY, alpha=1.0), LearningWithoutForgetting(1.0, 2.0)
    now = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    then = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    gradients = [
        torch.autograd.grad(method._distillation_loss(now, then, {0, 1, 2}), now)[0]
        for method in (ours, theirs)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_an_experience_lasts_from_one_consolidation_to_the_next() -> None:
    calls: list[str] = []

    class Listens(SupervisedPlugin):  # type: ignore[misc]
        def before_training(self, strategy: Any, **_: Any) -> None:
            calls.append("before_training")

        def before_training_exp(self, strategy: Any, **_: Any) -> None:
            calls.append(f"experience {strategy.clock.train_exp_counter}")

        def after_training_iteration(self, strategy: Any, **_: Any) -> None:
            calls.append("iteration")

        def after_training_exp(self, strategy: Any, **_: Any) -> None:
            calls.append(f"{len(strategy.experience.dataset)} rows")

    model = Sums()
    template = StreamTemplate(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=lambda outputs, targets: (outputs - targets).square().sum(),
        device=torch.device("cpu"),
        plugins=[Listens()],
    )
    for _ in range(2):
        template.learn(micro_batch(1), torch.zeros(1, 2))
        template.learn(micro_batch(1), torch.zeros(1, 2))
        template.consolidate(TensorDataset(torch.zeros(3, 2, 1), torch.zeros(3, 2)))
    one = ["iteration", "iteration", "3 rows"]
    assert calls == [
        "before_training", "experience 0", *one, "before_training", "experience 1", *one
    ]  # fmt: skip


class Told:
    """A memory of two rows that notes what it is told."""

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}

    def sample(self, rows: int, *, draws: Sequence[float]) -> Sequence[ReplayedRow]:
        del draws
        kept = [SimpleNamespace(id=f"m{n}", text="call home", label="ab"[n]) for n in range(2)]
        return (kept * rows)[:rows]

    def tell(self, ids: Sequence[str], losses: Sequence[float]) -> int:
        self.losses.update(zip(ids, losses, strict=True))
        return len(ids)


@pytest.mark.parametrize("strategy", ["er", "er-ace", "derpp", "mir", "agem"])
def test_memory_is_told_the_losses_of_what_it_gave(strategy: str) -> None:
    memory = Told()
    learner = small_learner(strategy, replay=memory, held_out_share=0.0)
    report = learner.learn([example("e1", "back home", "a"), example("e2", "help", "b")])
    assert report.replayed > 0
    assert set(memory.losses) == {"m0", "m1"}
    assert all(loss == pytest.approx(0.6931, abs=1e-3) for loss in memory.losses.values())


def test_drawn_rows_that_the_batch_holds_are_left_out() -> None:
    learner = small_learner("er", replay=Told(), held_out_share=0.0)
    assert learner.learn([example("m0", "back home", "a")]).replayed == 2  # of four draws
    assert isinstance(learner.strategy._plugin, ReplayMixing)  # type: ignore[attr-defined]
