"""Muon: an orthogonalised update, of AdamW's size."""

from __future__ import annotations

import pytest
import torch

from s2d_trt.training.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 16, 64), (3, 64, 16), (1, 8, 32), (2, 1, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_orthogonalising_keeps_the_singular_directions() -> None:
    matrix = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    mixed = u.mT @ orthogonalise(matrix) @ vh.mT
    off_diagonal = mixed - torch.diag_embed(mixed.diagonal(dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1e-4


def test_a_zero_gradient_gives_a_zero_update() -> None:
    assert orthogonalise(torch.zeros(2, 4, 8)).abs().max() == 0


def test_a_step_changes_matrices_together_as_it_changes_them_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(8, 24, generator=generator) for _ in range(2)]
    gradients = [torch.randn(8, 24, generator=generator) for _ in range(2)]

    def stepped(chosen: list[int]) -> list[torch.Tensor]:
        parameters = [torch.nn.Parameter(starts[i].clone()) for i in chosen]
        for parameter, i in zip(parameters, chosen, strict=True):
            parameter.grad = gradients[i].clone()
        Muon(parameters, lr=0.1, weight_decay=0.1).step()
        return [parameter.detach() for parameter in parameters]

    together = stepped([0, 1])
    alone = stepped([0]) + stepped([1])
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_update_has_adamws_size_for_any_shape() -> None:
    for shape in ((16, 64), (64, 16), (32, 128)):
        parameter = torch.nn.Parameter(torch.zeros(shape))
        parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        Muon([parameter], lr=1.0).step()
        assert 0.1 < float(parameter.detach().square().mean().sqrt()) < 0.3


def test_a_parameter_without_a_gradient_stays() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, 8))
    Muon([parameter], lr=1.0, weight_decay=0.5).step()
    assert (parameter == 1).all()
