"""Region-wise loss: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="region-wise",
    title="Region-wise Loss",
    summary="Weighs the predicted probabilities by a map per class, 1 outside of it and down to -1 "
    "in its core: handles class imbalance and pixel importance without a second loss.",
    level="boundary",
    aliases=("rw-loss", "rrw", "rectified-region-wise"),
    good_for=("class-imbalance", "boundary-quality", "3d", "medical"),
    paper=Paper(
        title="Region-wise Loss for Biomedical Image Segmentation",
        authors=("Juan Miguel Valverde", "Jussi Tohka"),
        year=2021,
        venue="Pattern Recognition 136, 2023",
        arxiv="2108.01405",
        doi="10.1016/j.patcog.2022.109208",
    ),
    code=Code(url="https://github.com/jmlipman/RegionWiseLoss", licence="MIT"),
    formula=r"L=\frac{1}{NC|\Omega|}\sum_{n,c,x}p_{n,c}(x)\,z_{n,c}(x),\qquad "
    r"z_c(x)=\begin{cases}-\dfrac{d(x,\Omega\setminus G_c)}{\max_{y\in G_c}"
    r"d(y,\Omega\setminus G_c)}&x\in G_c\\1&x\notin G_c\end{cases}",
    symbols={
        "p_{n,c}": "predicted probability of class c in image n",
        "z_{n,c}": "region-wise map, here the rectified one",
        "G_c": "the pixels of class c",
        "d": "Euclidean distance to a set",
        r"\Omega": "the pixels of the image",
        "C": "number of classes, background included",
    },
    implementation="segloss_plugin_region_wise.loss:RegionWiseLoss",
    capabilities=Capabilities(
        multilabel=True, may_be_negative=True, arrangement="spatial", one_channel_is_two=True
    ),
    inputs=("distance_map",),
    relations=(
        Relation(
            kind="generalises",
            loss="boundary",
            parameters={"map": "boundary"},
            note="of two channels, the boundary loss with idc=[0, 1]",
        ),
        Relation(kind="related-to", loss="dice", note="also trained beside it"),
    ),
    limits=(
        "Negative at the optimum, by an amount that depends on the shapes: compare models by Dice.",
        "The map is about -1/max(d) at the contour of a thick object and -1 in its core: contours "
        "weigh least, unlike in a boundary loss.",
        "The largest distance is that of the class in the image: the map of a crop is not the crop "
        "of the map.",
        "Maps are made on the CPU: pass distance_map from the data loader to spare a GPU the wait.",
        "The official map of a class that fills the image is undefined: here it is -1.",
    ),
    claims=(
        Claim(
            text="Its Hausdorff distance is similar to or lower than that of the Dice loss, "
            "without a second loss.",
            source="abstract",
            metric="HD95",
            direction="lower",
            versus="dice",
        ),
    ),
    survey_section="2.3.8",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
