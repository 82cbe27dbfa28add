"""Right mathematics in a wrong module, or under a wrong card."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import Unpack

from segloss_hub.nn import Batch, Common
from segloss_hub.testing.checks import api, card, extremes, ignore, invariance, scale
from segloss_hub.testing.samples import IGNORED
from wrong_losses.right import SMOOTH, CrossEntropy, Focal, caught_by


class Forwards(CrossEntropy):
    """A base for those that interfere with the call."""

    def value(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        return super().forward(logits, target, **options)


@caught_by(api.check_value_is_one_float32)
class HalfValue(Forwards):
    """Returns bfloat16."""

    def forward(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        return self.value(logits, target, **options).bfloat16()


@caught_by(api.check_reductions)
class OwnReduction(Forwards):
    """Knows no reduction but the constructor's."""

    def forward(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        return self.value(logits, target, **{**options, "reduction": self.reduction})


@caught_by(api.check_copies_are_the_same_loss)
class HoldsAFunction(CrossEntropy):
    """Keeps a lambda, which cannot be pickled."""

    def __init__(self, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        self.link = lambda nll: nll

    def terms(self, batch: Batch) -> Tensor:
        return self.link(batch.nll)


@caught_by(api.check_state_dict_round_trip)
class AttributeState(CrossEntropy):
    """Keeps a moving average in an attribute, which no checkpoint holds."""

    def __init__(self, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        self.average = 1.0

    def terms(self, batch: Batch) -> Tensor:
        self.average = 0.9 * self.average + 0.1 * float(batch.nll.detach().mean())
        return batch.nll * self.average


@caught_by(api.check_everything_moves_with_the_module)
class PlainTensor(CrossEntropy):
    """Keeps a tensor that .to() does not move."""

    def __init__(self, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        self.factor = torch.ones(1)

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll * self.factor


@caught_by(api.check_repr_names_it)
class Anonymous(Focal):
    """Hides its parameters."""

    def extra_repr(self) -> str:
        return ""


@caught_by(api.check_same_inputs_same_result)
class Random(CrossEntropy):
    """Draws a random number."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll * (1 + 0.01 * torch.rand(()))


@caught_by(api.check_inputs_are_left_alone)
class WritesIntoTarget(Forwards):
    """Replaces the ignored label in the caller's tensor."""

    def forward(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        value = self.value(logits, target, **options)
        target.masked_fill_(target == self.ignore_index, 0)
        return value


@caught_by(api.check_value_without_gradient)
class OtherInValidation(CrossEntropy):
    """Leaves something out when no gradient is wanted."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll if torch.is_grad_enabled() else batch.nll / 2


@caught_by(api.check_wrong_inputs_are_refused)
class MendsLabels(Forwards):
    """Turns labels out of range into the last class."""

    def forward(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        last = max(logits.shape[1], 2) - 1
        wrong = (target > last) & (target != self.ignore_index)
        return self.value(logits, target.masked_fill(wrong, last), **options)


@caught_by(ignore.check_ignored_extras_do_not_matter)
class TouchesRawWeight(Forwards):
    """Multiplies by the weight as it came."""

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, **options: Any
    ) -> Tensor:
        value = self.value(logits, target, weight=weight, **options)
        return value if weight is None else value + 0 * weight.sum()


@caught_by(ignore.check_any_label_may_mark_ignored)
class Knows255(Forwards):
    """Ignores 255, whatever ignore_index says."""

    def forward(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        return self.value(logits, target.clamp(min=0), **{**options, "ignore_index": IGNORED})


@caught_by(ignore.check_one_ignored_image)
class CountsImages(CrossEntropy):
    """Multiplies by the number of images, ignored ones too."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll * len(batch.logits)


@caught_by(ignore.check_one_valid_pixel)
class NeedsTwoPixels(CrossEntropy):
    """Divides by the number of valid pixels less one."""

    def terms(self, batch: Batch) -> Tensor:
        count = batch.valid.sum()
        return batch.nll * count / torch.where(count == 0, 1, count - 1)


@caught_by(extremes.check_autocast_is_exact)
class MatrixProduct(Forwards):
    """Adds a matrix product outside of what SegLoss shields from autocast."""

    def forward(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        value = self.value(logits, target, **options)
        scale = torch.full((1, 1), 1 / 3, dtype=value.dtype)
        return value * 9 * (scale @ scale)[0, 0].to(value.dtype)


@caught_by(invariance.check_channels_last)
@caught_by(invariance.check_non_contiguous)
class Views(Forwards):
    """Needs contiguous logits."""

    def forward(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        flat = logits.view(len(logits), -1)
        return self.value(flat.reshape(logits.shape), target, **options)


@caught_by(invariance.check_target_of_one_channel_may_keep_its_axis)
class RefusesTheAxis(Forwards):
    """Knows labels of one channel in one shape only."""

    def forward(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        if logits.shape[1] == 1 and target.ndim == logits.ndim:
            raise ValueError("drop the channel axis")
        return self.value(logits, target, **options)


@caught_by(scale.check_two_ranks_are_one)
class DoesNotSync(CrossEntropy):
    """Takes sync_stats, and averages over its own pixels all the same."""

    def __init__(self, **common: Unpack[Common]) -> None:
        super().__init__(**{**common, "sync_stats": False})


@caught_by(scale.check_low_memory_is_the_same)
class OtherInLowMemory(CrossEntropy):
    """Drops half of its terms to save memory."""

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll / 2 if self.low_memory else batch.nll


# The card


@caught_by(card.check_shown_parameters_are_real)
class DefaultElsewhere(CrossEntropy):
    """Its default is a name, so that nobody can read the number."""

    def __init__(
        self,
        *,
        smooth: Annotated[float, Field(ge=0, description="added")] = SMOOTH,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.smooth = smooth

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll * (1 + self.smooth)


class GammaOption(Common):
    gamma: Annotated[float, Field(default=0.5, ge=0, description="exponent")]


@caught_by(card.check_defaults_are_what_is_used)
class OtherDefault(CrossEntropy):
    """Declares the default 0.5 and uses 2."""

    def __init__(self, **options: Unpack[GammaOption]) -> None:
        self.gamma = options.pop("gamma", 2.0)
        super().__init__(**options)

    def terms(self, batch: Batch) -> Tensor:
        return batch.nll * (1 - (-batch.nll).exp()) ** self.gamma


@caught_by(card.check_everything_is_described)
class Undescribed(Focal):
    """Does not say what its parameter is."""

    def __init__(
        self, *, gamma: Annotated[float, Field(ge=0)] = 0.5, **common: Unpack[Common]
    ) -> None:
        super().__init__(gamma=gamma, **common)


@caught_by(card.check_declared_capabilities_work)
class OnlyImages(Forwards):
    """Refuses volumes, which its card declares."""

    def forward(self, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
        if logits.ndim == 5:
            raise ValueError("images only")
        return self.value(logits, target, **options)


@caught_by(card.check_undeclared_capabilities_refuse, multilabel=False)
@caught_by(card.check_undeclared_weights_refuse, pixel_weight=False)
@caught_by(card.check_class_agrees_with_card, inputs=("image",))
@caught_by(card.check_expected_failures_exist, expected_failures={"check_nothing": "no reason"})
class WrongCard(CrossEntropy):
    """A right loss, with something wrong in its card."""
