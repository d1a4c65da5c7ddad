"""SOAP: Adam along the principal axes of the gradients."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pygschnet import InputError
from pygschnet.training import SOAP


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def follow(weights, optimizer, steps, start=0):
    """Steps with gradients that are correlated over rows and columns."""
    for step in range(start, start + steps):
        for number, each in enumerate(weights):
            mixed = noise(1000 * step + number, *each.shape)
            if each.dim() == 2:
                rows, columns = (noise(number, length, length) for length in each.shape)
                mixed = rows @ mixed @ columns + 0.3
            each.grad = mixed.to(each)
        optimizer.step()


def parameters(*shapes, dtype=torch.float64):
    return [nn.Parameter(noise(number, *shape).to(dtype)) for number, shape in enumerate(shapes)]


SHAPES = ((5, 3), (4,), (5, 3), (3, 5), (1, 6), (4,), ())


def test_until_axes_are_turned_it_is_adam():
    ours, theirs = parameters(*SHAPES), parameters(*SHAPES)
    follow(ours, SOAP(ours, 0.01, betas=(0.8, 0.9), every=100), 30)
    follow(theirs, torch.optim.Adam(theirs, 0.01, betas=(0.8, 0.9)), 30)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_vectors_are_left_to_adam():
    shapes = ((4,), (1, 6), (6, 1), ())
    ours, theirs = parameters(*shapes), parameters(*shapes)
    follow(ours, SOAP(ours, 0.01, betas=(0.9, 0.99), every=1), 30)
    follow(theirs, torch.optim.Adam(theirs, 0.01, betas=(0.9, 0.99)), 30)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def by_the_book(weights, gradients, lr, betas, every, memory, eps=1e-8):
    """arXiv:2409.11321, Algorithm 3, of one matrix, as it stands there, with the mean gradient not kept along axes."""
    (rows, columns), mean, square = weights.shape, torch.zeros_like(weights), torch.zeros_like(weights)
    left, right = weights.new_zeros(rows, rows), weights.new_zeros(columns, columns)
    axes = torch.eye(rows).to(weights), torch.eye(columns).to(weights)
    for step, gradient in enumerate(gradients, 1):
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * (axes[0].T @ gradient @ axes[1]) ** 2
        scaled = axes[0].T @ mean @ axes[1] / (1 - betas[0] ** step)
        scaled = scaled / ((square / (1 - betas[1] ** step)).sqrt() + eps)
        weights = weights - lr * axes[0] @ scaled @ axes[1].T
        if step % max(every // 4, 1) == 0:
            left = memory * left + (1 - memory) * gradient @ gradient.T
            right = memory * right + (1 - memory) * gradient.T @ gradient
        if step % every == 0:
            axes = torch.linalg.qr(left @ axes[0])[0], torch.linalg.qr(right @ axes[1])[0]
    return weights


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 6), st.sampled_from([4, 7, 8]))
def test_it_is_the_published_algorithm(seed, rows, columns, every):
    options = {"lr": 0.02, "betas": (0.8, 0.95), "every": every, "memory": 0.7}
    matrices = [nn.Parameter(noise(seed + number, rows, columns)) for number in range(3)]
    starts = [matrix.detach().clone() for matrix in matrices]
    gradients = noise(seed, 25, 3, rows, columns) + 0.5
    optimizer = SOAP(matrices, **options)
    for of_step in gradients:
        for matrix, gradient in zip(matrices, of_step, strict=True):
            matrix.grad = gradient.clone()
        optimizer.step()
    for number, (matrix, start) in enumerate(zip(matrices, starts, strict=True)):
        expected = by_the_book(start, gradients[:, number], **options)
        torch.testing.assert_close(matrix.detach(), expected, rtol=1e-8, atol=1e-8)


def test_axes_become_eigenvectors():
    weights = parameters((6, 4))
    optimizer = SOAP(weights, 0.0, every=4, memory=0.999)
    turn = torch.linalg.qr(noise(5, 6, 6))[0]
    for step in range(4000):
        scales = torch.tensor([8.0, 4, 2, 1, 0.5, 0.25], dtype=torch.float64)
        weights[0].grad = turn @ (scales[:, None] * noise(step, 6, 4))
        optimizer.step()
    (state,) = optimizer.state.values()
    overlap = (state["left_axes"][0].T @ torch.linalg.eigh(state["left"][0])[1]).abs()
    torch.testing.assert_close(overlap, torch.eye(6, dtype=torch.float64).flip(1), atol=0.01, rtol=0)
    assert torch.allclose(state["right_axes"][0].T @ state["right_axes"][0], torch.eye(4, dtype=torch.float64))


def test_a_narrow_valley_that_lies_askew_takes_fewer_steps_than_with_adam():
    """½ ‖A (W − W₀) B‖², A and B with singular values from 1 to 0.1 along directions that are no axes of W."""
    scales = torch.logspace(0, -1, 12, dtype=torch.float64)
    turns = [torch.linalg.qr(noise(seed, 12, 12))[0] for seed in range(4)]
    left, right = turns[0] * scales @ turns[1], turns[2] * scales @ turns[3]
    target, losses = noise(4, 12, 12), {}
    for name, kind in {"soap": SOAP, "adam": torch.optim.Adam}.items():
        weights = nn.Parameter(torch.zeros(12, 12, dtype=torch.float64))
        optimizer = kind([weights], 0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2000)
        for _ in range(2000):
            optimizer.zero_grad()
            loss = (left.T @ (weights - target) @ right).square().sum() / 2
            loss.backward()
            optimizer.step()
            schedule.step()
        losses[name] = loss.item()
    assert losses["soap"] < losses["adam"] / 1e6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_goes_on_with_the_same_bits(dtype):
    through, halves = parameters(*SHAPES, dtype=dtype), parameters(*SHAPES, dtype=dtype)
    follow(through, SOAP(through, 0.01, every=3), 20)
    first = SOAP(halves, 0.01, every=3)
    follow(halves, first, 11)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = SOAP(halves, 0.5, every=7)
    second.load_state_dict(torch.load(file, weights_only=True))
    follow(halves, second, 9, start=11)
    assert all(torch.equal(one, other) for one, other in zip(through, halves, strict=True))


def test_weights_without_gradients():
    alone, some, others = parameters((4, 4), (3, 2), (3, 2))
    before = alone.detach().clone(), others.detach().clone()
    optimizer = SOAP([alone, some, others], 0.1, every=1)
    optimizer.step()
    assert not optimizer.state
    for _ in range(5):
        some.grad = torch.ones_like(some)
        optimizer.step()
    assert torch.equal(alone, before[0]) and torch.equal(others, before[1]) and alone not in optimizer.state


def test_rows_that_never_have_gradients_stay():
    """Embeddings of elements that do not occur."""
    (table,) = parameters((10, 6), dtype=torch.float32)
    before, present = table.detach().clone(), [1, 6, 8]
    optimizer = SOAP([table], 0.1, every=2)
    for step in range(40):
        table.grad = torch.zeros_like(table)
        table.grad[present] = noise(step, 3, 6).float()
        optimizer.step()
    absent = [row for row in range(10) if row not in present]
    assert torch.equal(table[absent], before[absent]) and (table[present] - before[present]).abs().min() > 0


@pytest.mark.parametrize("wrong", [{"every": 0}, {"memory": 1.0}, {"lr": -1.0}, {"betas": (1.0, 0.9)}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        SOAP(parameters((2, 2)), **wrong)
