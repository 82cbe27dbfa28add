"""Jaccard (IoU): card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="jaccard",
    title="Jaccard (IoU) Loss",
    summary="One minus the soft intersection over union of each class: trains the metric that most "
    "benchmarks report.",
    level="region",
    aliases=("iou", "soft-iou", "soft-jaccard"),
    good_for=("class-imbalance", "iou-metric", "binary", "small-objects"),
    paper=Paper(
        title="Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation",
        authors=("Md Atiqur Rahman", "Yang Wang"),
        year=2016,
        venue="ISVC 2016",
        doi="10.1007/978-3-319-50835-1_22",
    ),
    code=Code(
        url="https://github.com/qubvel-org/segmentation_models.pytorch",
        licence="MIT",
        official=False,
    ),
    formula=r"L=\frac{1}{|\mathcal{C}|}\sum_{c\in\mathcal{C}}\left(1-\frac{\sum_i p_{ic}g_{ic}"
    r"+\varepsilon}{\sum_i\left(p_{ic}+g_{ic}-p_{ic}g_{ic}\right)+\varepsilon}\right)",
    symbols={
        "p_{ic}": "predicted probability of class c at pixel i",
        "g_{ic}": "truth, 0 or 1",
        r"\mathcal{C}": "the classes that are scored",
        r"\varepsilon": "smooth_nr above, smooth_dr below",
        "i": "the pixels of the batch, or of one image with batch=False",
    },
    implementation="segloss_plugin_jaccard.loss:JaccardLoss",
    capabilities=Capabilities(multilabel=True, soft_labels=True, arrangement="sums"),
    relations=(
        Relation(
            kind="special-case-of",
            loss="tversky",
            parameters={"fp_weight": 1, "fn_weight": 1, "batch": True},
        ),
        Relation(
            kind="related-to",
            loss="dice",
            note="of one class each is a growing function of the other: J = D / (2 - D)",
        ),
        Relation(
            kind="related-to",
            loss="lovasz-softmax",
            note="another extension of the same index, equal for hard predictions",
        ),
    ),
    limits=(
        "A class absent from the batch scores by the smoothing alone, almost without a gradient: "
        "see absent_class.",
        "A soft label of 0.5 is best answered with 1, not with 0.5.",
        "float16 training needs a gradient scaler: gradients per pixel are about 1e-7 at 512x512.",
        "Under distributed training a batch is that of one rank unless sync_stats is set.",
    ),
    claims=(
        Claim(
            text="Optimising IoU directly gives a higher IoU than the softmax loss.",
            source="abstract",
            metric="mIoU",
            direction="higher",
            versus="cross-entropy",
        ),
    ),
    survey_section="2.2.4",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
