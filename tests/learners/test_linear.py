from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from learners.heads.linear import FIRST_ROWS, LinearHead
from learners.heads.served import load_served_head


def train(head: LinearHead, optimizer: torch.optim.Optimizer, *, classes: int, steps: int) -> float:
    generator = torch.Generator().manual_seed(classes)
    centres = nn.functional.normalize(torch.randn(classes, 16, generator=generator), dim=1)
    loss = torch.zeros(())
    for _ in range(steps):
        truth = torch.randint(0, classes, (64,), generator=generator)
        noise = 0.1 * torch.randn(64, 16, generator=generator)
        loss = nn.functional.cross_entropy(head(centres[truth] + noise), truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return loss.item()


def test_rows_keep_their_label_while_the_head_grows() -> None:
    head = LinearHead(16)
    head.grow(["b", "a"])
    assert (head.row_of("a"), head.row_of("c"), head.row_of("b")) == (1, 2, 0)
    assert head(torch.zeros(4, 16)).shape == (4, 3)


def test_it_learns_by_gradients() -> None:
    head = LinearHead(16)
    head.grow("abcde")
    assert train(head, torch.optim.AdamW(head.parameters(), lr=1e-2), classes=5, steps=150) < 0.2


def test_growing_past_the_room_keeps_parameters_and_optimizer_state() -> None:
    head = LinearHead(16)
    head.grow(str(n) for n in range(FIRST_ROWS))
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    train(head, optimizer, classes=8, steps=5)
    features = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    before, moment = head(features), optimizer.state[head.weight]["exp_avg"].clone()
    head.row_of("one too many")
    with pytest.raises(RuntimeError, match="fit_optimizer must come before"):
        head(features)
    head.fit_optimizer(optimizer)
    assert torch.equal(head(features)[:, :FIRST_ROWS], before)
    assert torch.equal(optimizer.state[head.weight]["exp_avg"][:FIRST_ROWS], moment)
    assert len(head.weight) == 2 * FIRST_ROWS
    old = head.weight.detach().clone()
    train(head, optimizer, classes=8, steps=1)
    assert not torch.equal(head.weight, old)


def test_the_served_blob_scores_as_the_head_does() -> None:
    head = LinearHead(16, seed=3)
    head.grow("abc")
    train(head, torch.optim.AdamW(head.parameters(), lr=1e-2), classes=3, steps=10)
    features = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    served = load_served_head(head.blobs())
    np.testing.assert_allclose(served.scores(features), head.scores(features), rtol=1e-4, atol=1e-4)
    assert served.labels == ("a", "b", "c")
