"""Conditional boundary loss: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="conditional-boundary",
    title="Conditional Boundary Loss",
    summary="Draws features of boundary pixels to the centre of their class around them and away "
    "from other classes: sharper boundaries, at no cost in inference.",
    level="boundary",
    aliases=("cbl",),
    good_for=("boundary-quality", "natural-images"),
    paper=Paper(
        title="Conditional Boundary Loss for Semantic Segmentation",
        authors=(
            "Dongyue Wu",
            "Zilin Guo",
            "Aoyan Li",
            "Changqian Yu",
            "Changxin Gao",
            "Nong Sang",
        ),
        year=2023,
        venue="IEEE Transactions on Image Processing 32",
        doi="10.1109/TIP.2023.3290519",
        url="https://ieeexplore.ieee.org/document/10173725",
    ),
    code=Code(url="https://github.com/dywu98/CBL-Conditional-Boundary-Loss"),
    formula=r"L=\frac{w_1}{|B|}\sum_{i\in B}\frac{1}{|N_i|}\sum_{j\in N_i}"
    r"\big(\cos(e_i,e_j)-[y_i=y_j]\big)^2"
    r"+w_2\sum_{k\in\{s,r\}}\operatorname{mean}_{i}\,\mathrm{CE}(W c_i^k+b,\,y_i)"
    r"+w_3\operatorname{mean}_{i}\tfrac{1}{D}\lVert e_i-\mathrm{sg}(c_i^r)\rVert^2",
    symbols={
        "B": "boundary pixels, at the resolution of the features",
        "N_i": "the other pixels of the window around pixel i",
        "e_i": "features before the classifier, of D channels",
        "y_i": "label",
        "c_i^s": "local centre: mean feature of the pixels in N_i with label y_i",
        "c_i^r": "the same over those of them that are predicted right",
        r"\mathrm{sg}": "stops the gradient",
        "W, b": "the classifier, taken as constant",
        "w_1, w_2, w_3": "`w_context`, `w_nce` and `w_cn`",
    },
    implementation="segloss_plugin_conditional_boundary.loss:ConditionalBoundaryLoss",
    capabilities=Capabilities(arrangement="spatial", non_monotone=True),
    inputs=("features", "classifier_weight", "classifier_bias", "boundary_target"),
    needs=("features", "classifier_weight"),
    trained_as="cross-entropy + conditional-boundary",
    relations=(
        Relation(kind="related-to", loss="cross-entropy", note="trained beside it"),
        Relation(kind="related-to", loss="active-boundary", note="which moves boundaries instead"),
    ),
    limits=(
        "Trains features alone: the classifier learns nothing from it, so add it to a pixel loss.",
        "Stops gradients, so that it is no derivative of its value: for first-order training only.",
        "Not 0 for a perfect prediction: features of two classes are pushed to a right angle.",
    ),
    claims=(
        Claim(
            text="Added to cross-entropy it raises IoU, at no cost in inference.",
            source="abstract, and the tables in the README of its code",
            metric="mIoU",
            direction="higher",
            versus="cross-entropy",
            loss="cross-entropy + conditional-boundary",
        ),
    ),
    expected_failures={
        "check_perfect_prediction_is_best": "features of a perfect prediction are rarely at right "
        "angles between classes, as the context term wants them",
        "check_perfect_prediction_has_no_gradient": "it still turns features of neighbouring "
        "classes to a right angle",
        "check_descent_segments": "it orders features and does not train the classifier; the pull "
        "to local centres grows as pixels become right and features long",
    },
    survey_section="2.3.6",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
