"""Adam along the principal axes of the gradients."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from pygschnet.errors import InputError


class SOAP(torch.optim.Optimizer):
    """Adam along the principal axes of the gradients of every matrix of weights.

    Adam scales every weight by itself. Where weights act together, as those of neighbouring Gaussians or of features
    that hardly change from one frame to the next, descent is slow along some directions and close to running away
    along others. SOAP keeps the means of G Gᵀ and Gᵀ G over the steps for every matrix with gradient G, and is Adam
    for Q_Lᵀ G Q_R, where Q_L and Q_R have their eigenvectors as columns. Vectors are left to Adam.

    Matrices of one shape are worked on together.

    Args:
        params: weights, or groups of them.
        lr: learning rate.
        betas: decay per step of the mean gradient and of the mean square of its components.
        every: steps after which eigenvectors are brought up to date, by one step of orthogonal iteration; a quarter of
            the steps enter the covariances.
        memory: decay of the covariances from one gradient that enters them to the next.
        eps: added to root mean squares.

    Raises:
        InputError: for numbers that make no sense.

    Source: arXiv:2409.11321, Algorithm 3.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.99),
        every: int = 20,
        memory: float = 0.95,
        eps: float = 1e-8,
    ):
        if lr < 0 or eps < 0 or every < 1:
            raise InputError(f"lr and eps must not be negative, nor every below 1; got {lr}, {eps} and {every}")
        if not all(0 <= decay < 1 for decay in (*betas, memory)):
            raise InputError(f"betas and memory must be from 0 to below 1, got {betas} and {memory}")
        super().__init__(params, {"lr": lr, "betas": betas, "every": every, "memory": memory, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. Weights without gradients stay; where others of their shape have some, theirs are taken to be 0."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._descend(_by_shape(group["params"]), **group)
        return loss

    def _descend(
        self,
        shapes: list[list[Tensor]],
        lr: float,
        betas: tuple[float, float],
        every: int,
        memory: float,
        eps: float,
        **_: Any,
    ) -> None:
        """Move weights; the first of a shape has the state of all."""
        gradients = [_stacked_gradients(weights) for weights in shapes]
        states = [self._state_of(weights[0], each) for weights, each in zip(shapes, gradients, strict=True)]
        moves = [torch.zeros_like(each) for each in gradients]
        adam(
            moves,
            [_onto_axes(state, each) for state, each in zip(states, gradients, strict=True)],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in states],
            fused=all(each.device.type == "cpu" for each in gradients),
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=lr,
            weight_decay=0.0,
            eps=eps,
            maximize=False,
        )
        for weights, state, each, move in zip(shapes, states, gradients, moves, strict=True):
            torch._foreach_add_(weights, list(_from_axes(state, move).unbind()))
            step = int(state["step"])
            if "left" in state and step % max(every // 4, 1) == 0:
                state["left"].lerp_(each @ each.mT, 1 - memory)
                state["right"].lerp_(each.mT @ each, 1 - memory)
            if "left" in state and step % every == 0:
                mean = _from_axes(state, state["mean"])
                for side in ("left", "right"):
                    state[f"{side}_axes"] = torch.linalg.qr(state[side] @ state[f"{side}_axes"])[0].contiguous()
                state["mean"] = _onto_axes(state, mean)

    def _state_of(self, first: Tensor, gradients: Tensor) -> dict[str, Tensor]:
        """Of weights that are one stack, made when it is first asked for."""
        state = self.state[first]
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(gradients)}
            state["square"] = torch.zeros_like(gradients)
            if gradients.dim() == 3 and min(gradients.shape[1:]) > 1:
                for side, length in zip(("left", "right"), gradients.shape[1:], strict=True):
                    state[side] = gradients.new_zeros(len(gradients), length, length)
                    state[f"{side}_axes"] = torch.eye(length).to(gradients).expand_as(state[side]).clone()
        return state


def _stacked_gradients(weights: list[Tensor]) -> Tensor:
    """Of weights of one shape, [weights, rows, columns] or [weights, length]."""
    return torch.stack([torch.zeros_like(each) if each.grad is None else each.grad for each in weights])


def _by_shape(params: Iterable[Tensor]) -> list[list[Tensor]]:
    """Those of a shape that has gradients at all."""
    shapes: dict[torch.Size, list[Tensor]] = {}
    for each in params:
        shapes.setdefault(each.shape, []).append(each)
    return [weights for weights in shapes.values() if any(each.grad is not None for each in weights)]


def _onto_axes(state: dict[str, Tensor], gradients: Tensor) -> Tensor:
    """Q_Lᵀ G Q_R."""
    return state["left_axes"].mT @ gradients @ state["right_axes"] if "left" in state else gradients


def _from_axes(state: dict[str, Tensor], gradients: Tensor) -> Tensor:
    """Q_L G Q_Rᵀ, where it came from."""
    return state["left_axes"] @ gradients @ state["right_axes"].mT if "left" in state else gradients
