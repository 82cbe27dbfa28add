"""Boundary-aware loss on distance levels: card and hook. Imports no torch."""

from segloss_hub import Capabilities, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="boundary-aware",
    title="Boundary-aware Loss (truncated distance coding)",
    summary="Codes how deep every pixel lies in its object as a few distance levels, predicted by "
    "a head or read from the class probabilities: makes shape part of the target.",
    level="boundary",
    aliases=("shape-aware", "bais", "distance-level-coding"),
    good_for=("boundary-quality", "structure", "3d"),
    paper=Paper(
        title="Boundary-aware Instance Segmentation",
        authors=("Zeeshan Hayder", "Xuming He", "Mathieu Salzmann"),
        year=2017,
        venue="CVPR 2017",
        arxiv="1612.03129",
    ),
    formula=r"D(x)=\min\Big(\min_{y\in Q}\lceil d(x,y)\rceil,\,R\Big),\qquad "
    r"L=-\frac{1}{|\Omega|}\sum_{x\in\Omega}\sum_{k}b_k(x)\log\hat b_k(x),\qquad "
    r"P\big(D_c(x)\ge r\big)=\min_{|y-x|\le r-1}p_c(y)",
    symbols={
        "Q": "pixels outside the object, and those of its boundary if boundary_level is 0",
        "d": "Euclidean distance, in pixels or in the unit of `resolution`",
        "R": "radius",
        "b_k(x)": "1 if D(x) is nearest to level r_k = kR/(K-1)",
        r"\hat b_k(x)": "predicted probability of level k, of a head; see P for the form without",
        "p_c(y)": "predicted probability of class c",
        "P": "the form on probabilities: scored by binary cross-entropy for every level and class",
    },
    implementation="segloss_plugin_boundary_aware.loss:BoundaryAwareLoss",
    capabilities=Capabilities(multilabel=True, arrangement="spatial", one_channel_is_two=True),
    inputs=("features",),
    trained_as="cross-entropy + boundary-aware",
    relations=(
        Relation(
            kind="related-to",
            loss="cross-entropy",
            note="its first level is binary cross-entropy of every class, with boundary_level 1",
        ),
        Relation(kind="related-to", loss="boundary", note="which is linear in the probabilities"),
    ),
    limits=(
        "The form on probabilities is the hub's own; the paper adds channels for the levels, as "
        "feature_channels and source='levels' do.",
        "Predicted levels train their head and the features, not the class logits: add a loss that "
        "does.",
        "With boundary_level 0, the default of predicted levels, objects of one pixel's width are "
        "invisible.",
        "Most pixels have the lowest or the highest level.",
        "Radius and number of levels are the hub's choice: the paper's values were not found.",
        "Other papers call unrelated losses boundary-aware.",
    ),
    survey_section="2.3.3",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
