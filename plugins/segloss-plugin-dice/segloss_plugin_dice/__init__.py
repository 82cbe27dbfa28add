"""Dice and generalised Dice: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="dice",
    title="Dice Loss",
    summary="One minus the soft Dice overlap of each class: counts a class by its own size, so "
    "that small objects weigh as much as large ones.",
    level="region",
    aliases=(
        "soft-dice",
        "generalised-dice",
        "generalized-dice",
        "gdl",
        "vnet-dice",
        "f1-loss",
    ),
    good_for=("class-imbalance", "small-objects", "3d", "medical", "strong-default"),
    paper=Paper(
        title="V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image "
        "Segmentation",
        authors=("Fausto Milletari", "Nassir Navab", "Seyed-Ahmad Ahmadi"),
        year=2016,
        venue="3DV 2016",
        arxiv="1606.04797",
    ),
    code=Code(url="https://github.com/faustomilletari/VNet", licence="GPL-3.0-only"),
    formula=r"L=1-\frac{1}{|\mathcal{C}|}\sum_{c\in\mathcal{C}}\frac{2\sum_i p_{ic}g_{ic}"
    r"+\varepsilon}{\sum_i p_{ic}^{q}+\sum_i g_{ic}^{q}+\varepsilon},\qquad "
    r"L_{\mathrm{GDL}}=1-2\,\frac{\sum_c w_c\sum_i p_{ic}g_{ic}}{\sum_c w_c\sum_i(p_{ic}+g_{ic})},"
    r"\quad w_c=\Big(\sum_i g_{ic}\Big)^{-2}",
    symbols={
        "p_{ic}": "predicted probability of class c at pixel i",
        "g_{ic}": "truth, 0 or 1",
        r"\mathcal{C}": "the classes that are scored",
        "q": "1, or 2 with squared=True",
        r"\varepsilon": "smooth_nr above, smooth_dr below",
        "i": "the pixels of one image, or of the batch with batch=True",
    },
    implementation="segloss_plugin_dice.loss:DiceLoss",
    capabilities=Capabilities(multilabel=True, soft_labels=True, arrangement="sums"),
    relations=(
        Relation(
            kind="special-case-of",
            loss="tversky",
            parameters={"fp_weight": 0.5, "fn_weight": 0.5, "smooth_nr": 5e-6, "smooth_dr": 5e-6},
            note="it adds its smoothing to half of the two sums",
        ),
        Relation(
            kind="related-to",
            loss="jaccard",
            note="of one class each is a growing function of the other: J = D / (2 - D)",
        ),
        Relation(kind="related-to", loss="log-cosh-dice", note="a growing function of it"),
    ),
    limits=(
        "Per image, an absent class scores by the smoothing alone: use batch=True or absent_class.",
        "A soft label of 0.5 is best answered with 1, not with 0.5.",
        "float16 training needs a gradient scaler: gradients per pixel are about 1e-7 at 512x512.",
        "Under distributed training each rank scores its own images.",
    ),
    claims=(
        Claim(
            text="It copes with few foreground and many background voxels without class weights, "
            "where a likelihood of single voxels needs them.",
            source="abstract, and section 3",
            metric="Dice",
            direction="higher",
            versus="cross-entropy",
            axis="class-imbalance",
        ),
        Claim(
            text="Networks trained with it are overconfident, where they are right and where they "
            "are wrong; asked here against cross-entropy, as there.",
            source="Mehrtash et al., IEEE Transactions on Medical Imaging 39(12), 2020",
            url="https://arxiv.org/abs/1911.13273",
            metric="ECE",
            direction="higher",
            versus="cross-entropy",
        ),
    ),
    survey_section="2.2.1",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
