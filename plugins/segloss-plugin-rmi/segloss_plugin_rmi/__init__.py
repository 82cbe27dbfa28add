"""Region mutual information: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

SIGMOIDS = "the paper scores every class by a sigmoid of its own, also where labels exclude others"

CARD = LossCard(
    name="rmi",
    title="Region Mutual Information Loss",
    summary="Maximises the mutual information between small regions of prediction and truth beside "
    "a cross-entropy, so that neighbouring pixels are right together.",
    level="region",
    aliases=("region-mutual-information",),
    good_for=("boundary-quality", "structure", "natural-images"),
    paper=Paper(
        title="Region Mutual Information Loss for Semantic Segmentation",
        authors=("Shuai Zhao", "Yang Wang", "Zheng Yang", "Deng Cai"),
        year=2019,
        venue="NeurIPS 2019, pp. 11117-11127",
        arxiv="1910.12037",
    ),
    code=Code(url="https://github.com/ZJULearning/RMI", licence="MIT"),
    formula=r"L=\lambda\,L_{\mathrm{BCE}}+(1-\lambda)\,\frac{1}{B}\sum_{b,c}\frac{1}{2d}\log\det"
    r"\Big(\Sigma_{Y}+\xi I-\Sigma_{YP}\big(\Sigma_{P}+\xi I\big)^{-1}\Sigma_{YP}^{\top}\Big)",
    symbols={
        r"\Sigma": "sum over all positions of the products of centred regions, per image and class",
        "Y, P": "regions of the pooled truth and probability, d entries each",
        "d": "entries of a region, radius to the power of the spatial axes",
        r"\xi": "ridge",
        r"\lambda": "bce_weight",
        "B": "images with a valid pixel",
        r"L_{\mathrm{BCE}}": "binary cross-entropy, summed over classes and pixels, divided by "
        "valid pixels + 1",
    },
    implementation="segloss_plugin_rmi.loss:RMILoss",
    capabilities=Capabilities(
        multilabel=True,
        soft_labels=True,
        may_be_negative=True,
        arrangement="spatial",
    ),
    relations=(
        Relation(kind="combines", loss="cross-entropy", note="by default a sigmoid per class"),
    ),
    limits=(
        "The value grows with the logarithm of the image size and its sign means nothing: compare "
        "images of one size, or use normalise=True.",
        "A class absent from an image adds the constant log(ridge) / 2 and no gradient.",
        "A network trained with it predicts by sigmoids: the default has no softmax.",
        "Large ignored areas are constant patches of both maps and shape the covariances.",
        "Cost grows with the regions' size, radius**2 in images and radius**3 in volumes.",
    ),
    claims=(
        Claim(
            text="It improves IoU over cross-entropy, consistently and at no cost in inference.",
            source="abstract",
            metric="mIoU",
            direction="higher",
            versus="cross-entropy",
        ),
    ),
    expected_failures={
        "check_softmax_gradient_sums_to_zero": SIGMOIDS,
        "check_shifted_logits": SIGMOIDS,
    },
    survey_section="2.2.9",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
