"""Lovász-Softmax and the Lovász hinge: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="lovasz-softmax",
    title="Lovász-Softmax Loss",
    summary="The convex extension of one minus IoU from wrong and right pixels to errors in "
    "between: trains the metric itself, best after or beside cross-entropy.",
    level="region",
    aliases=("lovasz", "lovasz-hinge", "lovasz-sigmoid"),
    good_for=("iou-metric", "class-imbalance", "small-objects", "fine-tuning"),
    paper=Paper(
        title="The Lovász-Softmax Loss: A Tractable Surrogate for the Optimization of the "
        "Intersection-Over-Union Measure in Neural Networks",
        authors=("Maxim Berman", "Amal Rannen Triki", "Matthew B. Blaschko"),
        year=2018,
        venue="CVPR 2018, pp. 4413-4421",
        arxiv="1705.08790",
        doi="10.1109/CVPR.2018.00464",
    ),
    code=Code(url="https://github.com/bermanmaxim/LovaszSoftmax", licence="MIT"),
    formula=r"L=\frac{1}{|\mathcal{C}|}\sum_{c\in\mathcal{C}}\sum_{k=1}^{P} m_{\pi_k}(c)"
    r"\left(J_k-J_{k-1}\right),\quad J_k=1-\frac{G-\mathrm{fg}_k}{G+\mathrm{bg}_k},\ J_0=0,\quad "
    r"m_i(c)=\left|\mathbf{1}[g_i=c]-p_{ic}\right|",
    symbols={
        "m_i(c)": "error of class c at pixel i; of one channel the hinge of the raw logit",
        r"\pi": "the pixels in falling order of their error",
        r"\mathrm{fg}_k, \mathrm{bg}_k": "foreground and background among the first k pixels",
        "G": "number of foreground pixels",
        r"\mathcal{C}": "classes present in the target, all, or a list",
        "P": "the pixels of the batch, or of one image with per_image=True",
    },
    implementation="segloss_plugin_lovasz_softmax.loss:LovaszSoftmaxLoss",
    capabilities=Capabilities(multilabel=True, soft_labels=True, arrangement="sums"),
    trained_as="cross-entropy + lovasz-softmax",
    relations=(
        Relation(
            kind="related-to",
            loss="jaccard",
            note="another extension of the same index, equal for hard predictions",
        ),
    ),
    limits=(
        "Trained badly from scratch alone: add cross-entropy, or fine-tune with it.",
        "Sorts every pixel of every class; method='histogram' does not, to 1/bins of the value.",
        "A class that is absent but scored has a gradient at one pixel, its largest error.",
        "Among pixels of equal error the gradient depends on their order.",
        "The hinge of one channel is not bounded: its value is no IoU.",
    ),
    claims=(
        Claim(
            text="It trains a higher IoU than cross-entropy.",
            source="abstract",
            metric="mIoU",
            direction="higher",
            versus="cross-entropy",
        ),
    ),
    survey_section="2.2.5",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
