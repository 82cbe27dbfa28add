"""Losses by a map of costs: what no plugin of theirs tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segloss_hub.errors import ParameterError
from segloss_hub.nn import Batch, MapLoss, label_maps
from segloss_hub.nn.batch import Activation, make_batch


class CostOfPlace(MapLoss):
    """Every probability costs the number of its pixel; the first class does not count."""

    def cost_map(self, batch: Batch) -> Tensor:
        pixels = torch.arange(batch.logits.shape[-1], dtype=torch.float16)
        return batch.spatial(pixels.expand_as(batch.logits))

    def kept_classes(self, batch: Batch) -> range:
        return range(1, batch.channels)


def batch_of(logits: Tensor, target: Tensor, activation: Activation = "auto") -> Batch:
    return make_batch(
        logits, target, None, {}, ignore_index=255, activation=activation, check_values=True
    )


def test_a_map_is_all_that_a_loss_needs() -> None:
    logits = torch.randn(2, 3, 2, 4, dtype=torch.float64)
    labels = torch.zeros(2, 2, 4, dtype=torch.long)
    cost = torch.arange(8).view(2, 4) * (logits.softmax(1)[:, 1] + 3 * logits.softmax(1)[:, 2]) / 4
    loss = CostOfPlace(class_weight=[5.0, 1.0, 3.0])
    assert_close(loss(logits, labels, reduction="none"), cost)
    weight = torch.rand(2, 2, 4, dtype=torch.float64)
    value = loss(logits, labels, weight=weight)
    assert_close(value, (weight * cost).sum() / weight.sum())


def test_without_a_weight_on_any_class_that_counts_it_is_zero() -> None:
    value = CostOfPlace(class_weight=[1.0, 0.0])(torch.randn(1, 2, 5), torch.ones(1, 5).long())
    assert value == 0


def test_resolution_is_checked_when_a_loss_is_built() -> None:
    with pytest.raises(ParameterError, match=r"resolution=\[1.0, -2.0\]"):
        CostOfPlace(resolution=[1.0, -2.0])


def test_labels_are_one_map_of_all_classes() -> None:
    labels = torch.tensor([[[0, 2, 255], [1, 1, 0]]])
    found = label_maps(batch_of(torch.randn(1, 3, 2, 3), labels))
    assert found.labels.tolist() == [[[0, 2, 0], [1, 1, 0]]]
    assert found.valid.tolist() == (labels != 255).tolist()
    assert found.classes == 3


def test_one_channel_has_two_classes_in_labels_and_in_flags() -> None:
    labels = torch.tensor([[[0, 1, 255], [1, 1, 0]]])
    one = label_maps(batch_of(torch.randn(1, 1, 2, 3), labels))
    other = label_maps(batch_of(torch.randn(1, 1, 2, 3), labels[:, None].double()))
    for found in (one, other):
        assert found.labels.tolist() == [[[0, 1, 0], [1, 1, 0]]]
        assert found.valid.tolist() == (labels != 255).tolist()
        assert found.classes == 2


def test_several_sigmoids_have_a_mask_each() -> None:
    flags = torch.tensor([[[0.0, 1.0], [1.0, 1.0]], [[0.6, 0.2], [0.0, 255.0]]])
    found = label_maps(batch_of(torch.randn(2, 2, 2), flags, "sigmoid"))
    assert found.labels.tolist() == [[0, 1], [1, 1], [1, 0], [0, 0]]
    assert found.valid.tolist() == [[True, True], [True, True], [True, False], [True, False]]
    assert found.classes == 2


def test_probabilities_of_a_softmax_have_no_maps() -> None:
    with pytest.raises(ValueError, match="integer labels"):
        label_maps(batch_of(torch.randn(1, 2, 3), torch.rand(1, 2, 3)))
