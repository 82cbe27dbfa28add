"""Tversky: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="tversky",
    title="Tversky Loss",
    summary="Dice with a price of its own for false positives and for false negatives: shifts the "
    "balance of precision and recall, for small lesions towards recall.",
    level="region",
    aliases=("tversky-index",),
    good_for=("class-imbalance", "false-negative-control", "small-objects", "3d", "medical"),
    paper=Paper(
        title="Tversky loss function for image segmentation using 3D fully convolutional deep "
        "networks",
        authors=("Seyed Sadegh Mohseni Salehi", "Deniz Erdogmus", "Ali Gholipour"),
        year=2017,
        venue="MLMI 2017",
        arxiv="1706.05721",
        doi="10.1007/978-3-319-67389-9_44",
    ),
    code=Code(url="https://github.com/Project-MONAI/MONAI", licence="Apache-2.0", official=False),
    formula=r"L=\frac{1}{|\mathcal{C}|}\sum_{c\in\mathcal{C}}\left(1-\frac{\sum_i p_{ic}g_{ic}"
    r"+\varepsilon}{\sum_i p_{ic}g_{ic}+w_{\mathrm{FP}}\sum_i p_{ic}(1-g_{ic})+w_{\mathrm{FN}}"
    r"\sum_i(1-p_{ic})g_{ic}+\varepsilon}\right)",
    symbols={
        "p_{ic}": "predicted probability of class c at pixel i",
        "g_{ic}": "truth, 0 or 1",
        r"\mathcal{C}": "the classes that are scored",
        r"w_{\mathrm{FP}}": "price of false positives, alpha in the paper",
        r"w_{\mathrm{FN}}": "price of false negatives, beta in the paper",
        r"\varepsilon": "smooth_nr above, smooth_dr below",
        "i": "the pixels of one image, or of the batch with batch=True",
    },
    implementation="segloss_plugin_tversky.loss:TverskyLoss",
    capabilities=Capabilities(multilabel=True, soft_labels=True, arrangement="sums"),
    relations=(
        Relation(
            kind="generalises",
            loss="dice",
            parameters={"fp_weight": 0.5, "fn_weight": 0.5, "smooth_nr": 5e-6, "smooth_dr": 5e-6},
            note="Dice adds its smoothing to twice these sums",
        ),
        Relation(
            kind="generalises",
            loss="jaccard",
            parameters={"fp_weight": 1, "fn_weight": 1, "batch": True},
        ),
        Relation(
            kind="special-case-of",
            loss="focal-tversky",
            parameters={"gamma": 1, "smooth_nr": 1e-5, "smooth_dr": 1e-5},
        ),
    ),
    limits=(
        "Which error alpha and beta weigh depends on the paper: here the parameters say it.",
        "With joint=True under a softmax only the sum of the two weights matters.",
        "Per image, an absent class scores by the smoothing alone: use batch=True or absent_class.",
        "A soft label of 0.5 is best answered with 1, not with 0.5.",
        "float16 training needs a gradient scaler: gradients per pixel are about 1e-7 at 512x512.",
    ),
    claims=(
        Claim(
            text="For lesions that are few among many background voxels it reaches a higher Dice "
            "score than the Dice loss.",
            source="abstract",
            metric="Dice",
            direction="higher",
            versus="dice",
            axis="class-imbalance",
        ),
    ),
    survey_section="2.2.6",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
