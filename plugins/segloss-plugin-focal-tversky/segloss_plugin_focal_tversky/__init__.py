"""Focal Tversky: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="focal-tversky",
    title="Focal Tversky Loss",
    summary="A root of the Tversky loss: keeps pushing classes that are nearly right, and weighs "
    "misses more than false alarms.",
    level="region",
    aliases=("ftl",),
    good_for=("class-imbalance", "small-objects", "false-negative-control", "medical"),
    paper=Paper(
        title="A Novel Focal Tversky loss function with improved Attention U-Net for lesion "
        "segmentation",
        authors=("Nabila Abraham", "Naimul Mefraz Khan"),
        year=2019,
        venue="ISBI 2019",
        arxiv="1810.07842",
    ),
    code=Code(url="https://github.com/nabsabraham/focal-tversky-unet"),
    formula=r"L=\frac{1}{|\mathcal{C}|}\sum_{c\in\mathcal{C}}\left(1-TI_c\right)^{1/\gamma},"
    r"\qquad TI_c=\frac{\sum_i p_{ic}g_{ic}+\varepsilon}{\sum_i p_{ic}g_{ic}+w_{\mathrm{FP}}"
    r"\sum_i p_{ic}(1-g_{ic})+w_{\mathrm{FN}}\sum_i(1-p_{ic})g_{ic}+\varepsilon}",
    symbols={
        "p_{ic}": "predicted probability of class c at pixel i",
        "g_{ic}": "truth, 0 or 1",
        r"\mathcal{C}": "the classes that are scored",
        r"w_{\mathrm{FP}}": "price of false positives, beta in the paper",
        r"w_{\mathrm{FN}}": "price of false negatives, alpha in the paper",
        r"\gamma": "4/3: the exponent is 3/4",
        r"\varepsilon": "smooth_nr above, smooth_dr below",
        "i": "the pixels of one image, or of the batch with batch=True",
    },
    implementation="segloss_plugin_focal_tversky.loss:FocalTverskyLoss",
    capabilities=Capabilities(multilabel=True, soft_labels=True, arrangement="sums"),
    relations=(
        Relation(
            kind="generalises",
            loss="tversky",
            parameters={"gamma": 1, "smooth_nr": 1e-5, "smooth_dr": 1e-5},
        ),
        Relation(kind="related-to", loss="unified-focal", note="its region term is one"),
    ),
    limits=(
        "gamma is the exponent in some codes, its inverse here and in the paper: copying 4/3 or "
        "0.75 from elsewhere bends the loss the other way.",
        "In spite of its name it weighs easy classes up: the slope grows without bound towards 0.",
        "Power of each class and power of the mean are two losses: power_over chooses.",
        "A soft label of 0.5 is best answered with 1, not with 0.5.",
        "float16 training needs a gradient scaler: gradients per pixel are about 1e-7 at 512x512.",
    ),
    survey_section="2.2.7",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
