"""Boundary difference-over-union loss: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="boundary-dou",
    title="Boundary Difference-over-Union Loss",
    summary="Mismatch of each class over its union less a part of the overlap that grows with the "
    "size of the class: a region loss that looks at boundaries, without distance maps.",
    level="boundary",
    aliases=("b-dou", "boundarydou", "bdou"),
    good_for=("boundary-quality", "class-imbalance", "medical"),
    paper=Paper(
        title="Boundary Difference Over Union Loss For Medical Image Segmentation",
        authors=("Fan Sun", "Zhiming Luo", "Shaozi Li"),
        year=2023,
        venue="MICCAI 2023",
        arxiv="2308.00220",
    ),
    code=Code(url="https://github.com/sunfan-bvb/BoundaryDoULoss"),
    formula=r"L=\frac{1}{|C|}\sum_{c\in C}\frac{\sum_i(p_{ic}-g_{ic})^2+\varepsilon}"
    r"{\sum_i(p_{ic}-g_{ic})^2+(1-\alpha_c)\sum_i p_{ic}g_{ic}+\varepsilon},\qquad "
    r"\alpha_c=\min\Big(1-2\,\frac{B_c+\varepsilon}{S_c+\varepsilon},\ \alpha_{\max}\Big)",
    symbols={
        "p_{ic}": "predicted probability of class c at pixel i",
        "g_{ic}": "truth, 0 or 1",
        "S_c": "size of the class in pixels",
        "B_c": "how many of them have a neighbour of another class, or lie at the image border",
        "i": "the pixels of the batch, or of one image with batch=False",
        "C": "the classes that are scored",
        r"\varepsilon": "smooth",
    },
    implementation="segloss_plugin_boundary_dou.loss:BoundaryDoULoss",
    capabilities=Capabilities(multilabel=True, may_be_negative=True, arrangement="spatial"),
    relations=(
        Relation(kind="related-to", loss="jaccard", note="with squared sums, which alpha 0 gives"),
        Relation(kind="related-to", loss="dice", note="with squared sums, which alpha -1 gives"),
    ),
    limits=(
        "An absent class scores 1 without a gradient, so that its false positives cost nothing of "
        "their own and 0 may be out of reach: absent_class='skip' leaves it out.",
        "Sums run over the batch: the value depends on the batch size, and each rank of a "
        "distributed run scores its own images unless sync_stats is on.",
        "Close to alpha 1 the value is 1 whatever the prediction: raise alpha_max with care.",
    ),
    claims=(
        Claim(
            text="Alone it reaches a lower 95 % Hausdorff distance than cross-entropy and Dice "
            "together.",
            source="abstract, and the tables in the README of its code",
            metric="HD95",
            direction="lower",
            versus="cross-entropy + dice",
        ),
        Claim(
            text="Alone it reaches a higher boundary IoU than cross-entropy and Dice together.",
            source="abstract, and the tables in the README of its code",
            metric="BoundaryIoU",
            direction="higher",
            versus="cross-entropy + dice",
        ),
    ),
    survey_section="2.3.7",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
