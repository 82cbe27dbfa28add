"""Active boundary loss: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

ONE_SIDED = "both boundaries lie on the first of two unequal pixels, as published"
DETACHED = "isdetach leaves a part of the derivative out, as published; isdetach=False has it all"
GRADIENT_ONLY = "isdetach decides on the gradient, and leaves the value alone"
REFINES = "moves a boundary that is there, and segments nothing from noise"

CARD = LossCard(
    name="active-boundary",
    title="Active Boundary Loss",
    summary="Draws the predicted boundary, pixel by pixel, towards the true one: sharpens the "
    "contours of a segmentation that cross-entropy and Lovász-softmax train.",
    level="boundary",
    aliases=("abl",),
    good_for=("boundary-quality",),
    paper=Paper(
        title="Active Boundary Loss for Semantic Segmentation",
        authors=(
            "Chi Wang",
            "Yunke Zhang",
            "Miaomiao Cui",
            "Peiran Ren",
            "Yin Yang",
            "Xuansong Xie",
            "Xian-Sheng Hua",
            "Hujun Bao",
            "Weiwei Xu",
        ),
        year=2022,
        venue="AAAI 2022",
        arxiv="2102.02696",
        doi="10.1609/aaai.v36i2.20139",
        url="https://ojs.aaai.org/index.php/AAAI/article/view/20139",
    ),
    code=Code(url="https://github.com/wangchi95/active-boundary-loss", licence="Apache-2.0"),
    formula=r"L=\frac{1}{|B|}\sum_{i\in B}\frac{\min(M_i,\theta)}{\theta}\,\mathrm{CE}_{LS}\Big("
    r"\big[\mathrm{KL}(P_{i+\Delta_j}\,\|\,P_i)\big]_{j},\,\arg\min_{j}M_{i+\Delta_j}\Big)",
    symbols={
        "B": "predicted boundary: where KL(P_i || P_next), summed over the axes, exceeds a "
        "threshold, dilated by one pixel, and a neighbour is nearer to the true boundary",
        "P_i": "predicted class distribution of pixel i",
        r"\Delta_j": "steps to the 3^d - 1 neighbours",
        "M": "Euclidean distance to the true boundary",
        r"\theta": "`max_clip_dist`",
        r"\mathrm{CE}_{LS}": "cross-entropy over the directions, with label smoothing",
    },
    implementation="segloss_plugin_active_boundary.loss:ActiveBoundaryLoss",
    capabilities=Capabilities(
        multilabel=True,
        class_weight=False,
        arrangement="spatial",
        non_monotone=True,
        one_channel_is_two=True,
    ),
    trained_as="cross-entropy + lovasz-softmax + active-boundary",
    relations=(
        Relation(kind="related-to", loss="boundary", note="which takes distances as costs"),
        Relation(kind="related-to", loss="lovasz-softmax", note="trained beside it, as is CE"),
        Relation(kind="related-to", loss="conditional-boundary"),
    ),
    limits=(
        "Alone it does not train from scratch, nor see objects that are missed altogether: add it "
        "to cross-entropy and Lovász-softmax.",
        "Set max_N_ratio to the share of boundary pixels in the data set, as the authors advise.",
        "An image with more equally large divergences than the budget, as of saturated logits, has "
        "no predicted boundary and adds 0.",
        "Distances are made on the CPU, for which a GPU has to wait once per batch.",
        "The published code has other distances, budget, smoothing and mean: compat='official'.",
    ),
    claims=(
        Claim(
            text="Added to cross-entropy and Lovász-softmax it raises IoU further.",
            source="abstract",
            metric="mIoU",
            direction="higher",
            versus="cross-entropy + lovasz-softmax",
            loss="cross-entropy + lovasz-softmax + active-boundary",
        ),
    ),
    expected_failures={
        "check_flips": ONE_SIDED,
        "check_gradient_is_the_derivative": DETACHED,
        "check_gradient_can_be_differentiated": DETACHED,
        "check_every_parameter_acts": GRADIENT_ONLY,
        "check_descent_segments": REFINES,
    },
    survey_section="2.3.4",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
