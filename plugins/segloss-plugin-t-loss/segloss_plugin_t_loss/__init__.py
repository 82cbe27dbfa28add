"""Robust T-Loss: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, hookimpl

CARD = LossCard(
    name="t-loss",
    title="Robust T-Loss",
    summary="Negative log-likelihood of the whole error map under a Student-t distribution whose "
    "tail is learnt: images with wholly wrong masks pull less.",
    level="region",
    aliases=("tloss", "student-t-loss"),
    good_for=("noisy-labels", "medical", "binary"),
    paper=Paper(
        title="Robust T-Loss for Medical Image Segmentation",
        authors=(
            "Alvaro Gonzalez-Jimenez",
            "Simone Lionetti",
            "Philippe Gottfrois",
            "Fabian Gröger",
            "Marc Pouly",
            "Alexander A. Navarini",
        ),
        year=2023,
        venue="MICCAI 2023",
        arxiv="2306.00753",
    ),
    code=Code(url="https://github.com/Digital-Dermatology/t-loss", licence="Apache-2.0"),
    formula=r"L=\frac{1}{B}\sum_b\left[-\log\Gamma\!\left(\tfrac{\nu+D}{2}\right)"
    r"+\log\Gamma\!\left(\tfrac{\nu}{2}\right)+\tfrac12\log|\Sigma|+\tfrac D2\log(\pi\nu)"
    r"+\tfrac{\nu+D}{2}\log\!\left(1+\tfrac{\delta_b^{\top}\Sigma^{-1}\delta_b}{\nu}\right)\right]",
    symbols={
        r"\delta_b": "predicted probability minus truth at the valid pixels of image b",
        "D": "number of valid pixels of the image",
        r"\nu": "degrees of freedom, learnt; many are the squared error, few are robust",
        r"\Sigma": "identity, divided by the exponential of log_precision",
        "B": "number of images",
    },
    implementation="segloss_plugin_t_loss.loss:TLoss",
    capabilities=Capabilities(
        multilabel=True,
        soft_labels=True,
        stateful=True,
        may_be_negative=True,
        arrangement="sums",
        one_channel_is_two=True,
        soft_label_minimum=True,
    ),
    limits=(
        "The value grows with the number of pixels, 1e4 at 128x128: beside a loss that is a mean "
        "over pixels use per_pixel=True.",
        "The loss must be part of what is optimised, wrapped by DDP and saved: it holds nu.",
        "Without per_pixel the gradient of nu is thousands: plain SGD needs a small rate for it, "
        "and clipping by the total norm then starves the network.",
        "Weight decay pulls nu to 0: HubLoss excludes it in MMSegmentation; elsewhere exclude it.",
        "Robust against whole wrong masks, not against single wrong pixels in a good one.",
        "The gradient has the factor p (1 - p): confident mistakes are learnt slowly.",
    ),
    claims=(
        Claim(
            text="Trained on noisy masks it reaches a higher Dice score than losses that trust "
            "every mask.",
            source="abstract",
            metric="Dice",
            direction="higher",
            versus="cross-entropy",
            axis="label-noise",
        ),
    ),
    survey_section="2.2.10",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
