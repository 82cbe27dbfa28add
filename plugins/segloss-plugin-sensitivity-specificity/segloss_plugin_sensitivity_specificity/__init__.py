"""Sensitivity-specificity: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="sensitivity-specificity",
    title="Sensitivity-Specificity Loss",
    summary="Mean squared error on the object and on the rest, each divided by its own size, so "
    "that one number trades missed objects against false alarms.",
    level="region",
    aliases=("ss", "ss-loss", "brosch"),
    good_for=("class-imbalance", "false-negative-control", "medical", "3d"),
    paper=Paper(
        title="Deep Convolutional Encoder Networks for Multiple Sclerosis Lesion Segmentation",
        authors=(
            "Tom Brosch",
            "Youngjin Yoo",
            "Lisa Y. W. Tang",
            "David K. B. Li",
            "Anthony Traboulsee",
            "Roger Tam",
        ),
        year=2015,
        venue="MICCAI 2015",
        doi="10.1007/978-3-319-24574-4_1",
    ),
    # No code of the authors is known; this is the field's reference.
    code=Code(url="https://github.com/NifTK/NiftyNet", licence="Apache-2.0", official=False),
    formula=r"L=\sum_{c\in\mathcal{C}}\left[r\,\frac{\sum_i(g_{ic}-p_{ic})^2 g_{ic}}"
    r"{\sum_i g_{ic}+\varepsilon}+(1-r)\,\frac{\sum_i(g_{ic}-p_{ic})^2(1-g_{ic})}"
    r"{\sum_i(1-g_{ic})+\varepsilon}\right]",
    symbols={
        "p_{ic}": "predicted probability of class c at pixel i",
        "g_{ic}": "truth, 0 or 1",
        r"\mathcal{C}": "the classes that are scored; of two channels the foreground alone",
        "r": "weight of the error on the object",
        r"\varepsilon": "eps, added to both pixel counts",
        "i": "the pixels of one image",
    },
    implementation="segloss_plugin_sensitivity_specificity.loss:SensitivitySpecificityLoss",
    capabilities=Capabilities(
        multilabel=True,
        soft_labels=True,
        arrangement="sums",
        one_channel_is_two=True,
        soft_label_minimum=True,
    ),
    relations=(Relation(kind="related-to", loss="tversky", note="both price the two errors"),),
    limits=(
        "With the background of a two-channel softmax scored too, r cancels: the sum is A + B.",
        "r is small by design, for the background's mean runs over very many easy pixels.",
        "The gradient has the factor p (1 - p): confident mistakes are learnt slowly.",
        "The value is a sum over classes; class_reduction='mean' keeps its scale for any number.",
        "Under distributed training each rank scores its own images.",
    ),
    sides={"r": "false-negative"},
    survey_section="2.2.8",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
