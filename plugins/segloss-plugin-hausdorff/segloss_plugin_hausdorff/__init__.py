"""Hausdorff distance losses: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="hausdorff",
    title="Hausdorff Distance Loss",
    summary="Weighs squared errors by a power of their distance to the true and the predicted "
    "contour: takes away outliers far from the object.",
    level="boundary",
    aliases=("hd-loss", "hd-dt", "hausdorff-dt", "hausdorff-distance"),
    good_for=("boundary-quality", "small-objects", "medical", "3d"),
    paper=Paper(
        title="Reducing the Hausdorff Distance in Medical Image Segmentation with Convolutional "
        "Neural Networks",
        authors=("Davood Karimi", "Septimiu E. Salcudean"),
        year=2019,
        venue="IEEE Transactions on Medical Imaging 39(2), 2020",
        arxiv="1904.10030",
        doi="10.1109/TMI.2019.2930068",
    ),
    code=Code(url="https://github.com/Project-MONAI/MONAI", licence="Apache-2.0", official=False),
    formula=r"L_{DT}=\frac{1}{N|C||\Omega|}\sum_{n}\sum_{c\in C}\sum_{x\in\Omega}"
    r"(p_{n,c}(x)-t_{n,c}(x))^2\left(d(x,\partial t_{n,c})^{\alpha}+"
    r"d(x,\partial p_{n,c})^{\alpha}\right),\qquad "
    r"L_{ER}=\frac{1}{N|C||\Omega|}\sum_{n}\sum_{c\in C}\sum_{k=1}^{K}k^{\alpha}"
    r"\sum_{x\in\Omega}\left((p_{n,c}-t_{n,c})^2\ominus_k B\right)(x)",
    symbols={
        "p_{n,c}": "predicted probability of class c in image n",
        "t_{n,c}": "1 where the label is c, 0 elsewhere",
        r"d(x,\partial t)": "Euclidean distance to the nearest pixel on the other side of the mask",
        r"d(x,\partial p)": "the same of the binarised prediction; left out by dt-onesided",
        r"\alpha": "exponent of the distance",
        r"\ominus_k B": "k soft erosions by a cross, each rescaled to [0, 1]",
        "C": "the classes, without the background by default",
        r"\Omega": "the pixels of the image",
    },
    implementation="segloss_plugin_hausdorff.loss:HausdorffLoss",
    capabilities=Capabilities(
        multilabel=True,
        soft_labels=True,
        soft_label_minimum=True,
        arrangement="spatial",
        non_monotone=True,
        classes_alike=False,
        one_channel_is_two=True,
    ),
    inputs=("distance_map",),
    trained_as="dice + 0.002 * hausdorff",
    relations=(
        Relation(kind="related-to", loss="dice", note="the paper trains the two together"),
        Relation(kind="related-to", loss="boundary", note="signed distances, linear in p"),
    ),
    limits=(
        "Values grow with the image, by default with its squared size: give it a weight that "
        "balances the loss beside it, or normalize='diagonal'.",
        "With degenerate='zero' a false positive below the threshold costs nothing where the class "
        "is absent: train it beside a region loss, or take degenerate='diagonal'.",
        "An emptied prediction has no contour, which may cost a little less than one wrong pixel.",
        "dt makes distances of the prediction in every step, on the CPU unless there is a clip.",
        "er is 0, without a gradient, for errors that are too weak or too thin for one erosion.",
        "cv is written from secondary sources and was not held against the paper.",
    ),
    claims=(
        Claim(
            text="Beside a Dice loss it lowers the Hausdorff distance, by 18 to 45 % on four "
            "medical data sets.",
            source="abstract",
            metric="HD95",
            direction="lower",
            versus="dice",
            loss="dice + 0.002 * hausdorff",
        ),
    ),
    survey_section="2.3.2",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
