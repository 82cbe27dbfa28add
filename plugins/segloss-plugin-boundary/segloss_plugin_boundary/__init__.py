"""Boundary loss: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="boundary",
    title="Boundary Loss",
    summary="Weighs every predicted pixel by its signed distance to the true contour: pulls "
    "boundaries into place beside a region loss.",
    level="boundary",
    aliases=("surface-loss", "kervadec-boundary", "bd-loss"),
    good_for=("class-imbalance", "small-objects", "boundary-quality", "3d"),
    paper=Paper(
        title="Boundary loss for highly unbalanced segmentation",
        authors=(
            "Hoel Kervadec",
            "Jihene Bouchtiba",
            "Christian Desrosiers",
            "Eric Granger",
            "Jose Dolz",
            "Ismail Ben Ayed",
        ),
        year=2019,
        venue="MIDL 2019; Medical Image Analysis 67, 2021",
        arxiv="1812.07032",
        doi="10.1016/j.media.2020.101851",
    ),
    code=Code(url="https://github.com/LIVIAETS/boundary-loss", licence="MIT"),
    formula=r"L=\frac{1}{N|C||\Omega|}\sum_{n}\sum_{c\in C}\sum_{x\in\Omega} p_{n,c}(x)\,"
    r"\phi_{n,c}(x),\qquad \phi_c(x)=\begin{cases}d(x,G_c)&x\notin G_c\\"
    r"-(d(x,\Omega\setminus G_c)-1)&x\in G_c\\0&G_c=\emptyset\end{cases}",
    symbols={
        "p_{n,c}": "predicted probability of class c in image n",
        "G_c": "the pixels of class c",
        "d": "Euclidean distance to a set, in pixels or in the unit of `resolution`",
        "C": "the classes in `idc`",
        r"\Omega": "the pixels of the image",
    },
    implementation="segloss_plugin_boundary.loss:BoundaryLoss",
    capabilities=Capabilities(
        multilabel=True, may_be_negative=True, arrangement="spatial", one_channel_is_two=True
    ),
    inputs=("distance_map",),
    trained_as="dice + boundary",
    relations=(
        Relation(
            kind="special-case-of",
            loss="region-wise",
            parameters={"map": "boundary"},
            note="of two channels with idc=[0, 1]",
        ),
        Relation(kind="related-to", loss="dice", note="trained beside it, with a rising weight"),
    ),
    limits=(
        "Negative and unbounded below: about minus the mean inside distance at the optimum.",
        "Alone it may settle for predicting nothing: add it to a region loss with a small weight "
        "(0.01) that rises during training.",
        "A distance map made before rescaling or cropping no longer fits the labels.",
        "The published loader truncates distances to integers: compat='official'.",
        "MMSegmentation has an unrelated BoundaryLoss, a cross-entropy on an edge head.",
    ),
    claims=(
        Claim(
            text="Beside a Dice loss it lowers the Hausdorff distance of small, rare lesions.",
            source="experiments on the data sets ISLES and WMH",
            metric="HD95",
            direction="lower",
            versus="dice",
            loss="dice + boundary",
        ),
        Claim(
            text="Beside a Dice loss it raises the Dice score where lesions are small and rare.",
            source="experiments on the data sets ISLES and WMH",
            metric="Dice",
            direction="higher",
            versus="dice",
            loss="dice + boundary",
            axis="class-imbalance",
        ),
    ),
    survey_section="2.3.1",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
