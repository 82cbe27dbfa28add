"""Jaccard metric loss: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="jaccard-metric",
    title="Jaccard Metric Loss",
    summary="The soft Jaccard loss made a metric: the same for labels of 0 and 1, while a soft "
    "label, smoothed, of a teacher or of several annotators, is best answered by itself.",
    level="region",
    aliases=("jml", "jaccard-metric-losses", "jdt"),
    good_for=("soft-labels", "iou-metric", "calibration", "class-imbalance", "natural-images"),
    paper=Paper(
        title="Jaccard Metric Losses: Optimizing the Jaccard Index with Soft Labels",
        authors=("Zifu Wang", "Xuefei Ning", "Matthew B. Blaschko"),
        year=2023,
        venue="NeurIPS 2023",
        arxiv="2302.05666",
    ),
    code=Code(url="https://github.com/zifuwanggg/JDTLosses"),
    formula=r"L=\frac{1}{|\mathcal{C}|} \sum_{c\in\mathcal{C}} \left(1-\frac{H_c+\varepsilon}{H_c"
    r"+w_{\mathrm{FP}} \sum_i (p_{ic}-g_{ic})^{+} +w_{\mathrm{FN}} \sum_i (g_{ic}-p_{ic})^{+}"
    r"+\varepsilon}\right)^{\gamma}, \qquad H_c=\sum_i \min(p_{ic},g_{ic}) \ \text{or}\ "
    r"\sum_i p_{ic} g_{ic}",
    symbols={
        "p_{ic}": "predicted probability of class c at pixel i",
        "g_{ic}": "truth, between 0 and 1",
        r"\mathcal{C}": "the classes that are there",
        "H_c": "overlap, JML1 or JML2 by variant",
        r"w_{\mathrm{FP}}": "price of false positives, 1 in the paper",
        r"w_{\mathrm{FN}}": "price of false negatives, 1 in the paper",
        r"\gamma": "exponent, 1 in the paper",
        r"\varepsilon": "smooth_nr above, smooth_dr below",
        "x^{+}": "x where it is positive, else 0",
        "i": "the pixels of the batch, or of one image with batch=False",
    },
    implementation="segloss_plugin_jaccard_metric.loss:JaccardMetricLoss",
    capabilities=Capabilities(multilabel=True, soft_labels=True, soft_label_minimum=True),
    relations=(
        Relation(
            kind="related-to",
            loss="jaccard",
            note="equal for labels of 0 and 1; that one is no metric for soft ones",
        ),
        Relation(
            kind="related-to",
            loss="tversky",
            note="equal for labels of 0 and 1, for any fp_weight and fn_weight",
        ),
        Relation(
            kind="related-to",
            loss="dice",
            note="with fp_weight and fn_weight 0.5 for labels of 0 and 1, with twice the smoothing",
        ),
    ),
    limits=(
        "Its slope does not fade as a soft label is approached: train it beside cross-entropy, the "
        "authors with 0.25 of that and 0.75 of this.",
        "Absent classes are left out: of one channel, a batch without foreground teaches nothing, "
        "see absent_class.",
        "Labels of a softmax are all above 0, so that every class counts as there: see threshold.",
        "float16 training needs a gradient scaler: gradients per pixel are about 1e-7 at 512x512.",
        "Under distributed training a batch is that of one rank unless sync_stats is set.",
    ),
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
