"""InverseForm loss: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="inverseform",
    title="InverseForm Loss",
    summary="A small frozen network reads off predicted and true boundary how one was shifted, "
    "turned or scaled against the other: helps contours that are nearly right.",
    level="boundary",
    aliases=("inverse-form",),
    good_for=("boundary-quality",),
    paper=Paper(
        title="InverseForm: A Loss Function for Structured Boundary-Aware Segmentation",
        authors=("Shubhankar Borse", "Ying Wang", "Yizhe Zhang", "Fatih Porikli"),
        year=2021,
        venue="CVPR 2021",
        arxiv="2104.02745",
    ),
    code=Code(
        url="https://github.com/Qualcomm-AI-research/InverseForm", licence="BSD-3-Clause-Clear"
    ),
    formula=r"L=\frac{1}{T}\sum_{t=1}^{T}\lVert f(\hat b_t,b_t)-f(b_t,b_t)\rVert_2,\qquad "
    r"\hat b_n=1-\sum_c\min_{m\in W_n}p_{m,c}",
    symbols={
        "b": "true boundary map, 1 within `edge_radius` of another label",
        r"\hat b": "predicted boundary map, by default that of the segmentation itself",
        "t": "one of the T tiles of 64 x 64 pixels",
        "f": "frozen network: shift, log scale and rotation from the first map to the second",
        "W_n": "the window of pixels around n",
        "p_{m,c}": "predicted probability of class c at pixel m",
    },
    implementation="segloss_plugin_inverseform.loss:InverseFormLoss",
    capabilities=Capabilities(
        multilabel=True,
        soft_labels=True,
        spatial_dims=(2,),
        class_weight=False,
        arrangement="spatial",
        non_monotone=True,
        one_channel_is_two=True,
    ),
    inputs=("boundary_logits", "boundary_target"),
    trained_as="cross-entropy + 0.3 * inverseform",
    relations=(
        Relation(kind="related-to", loss="cross-entropy", note="trained beside it, weight 0.3"),
    ),
    limits=(
        "Blind to which class is on which side of a boundary: add it to cross-entropy.",
        "Predictions far from the truth are outside of what the network has learnt: it tells "
        "shifts of up to about 8 pixels apart.",
        "The network is the plugin's own, trained on synthetic scenes; the official one is neither "
        "shipped nor downloaded.",
        "Others have applied for a patent on the method, US 2022/0156528; see the plugin's README.",
        "The official code has no gradient: a log-softmax over one channel.",
    ),
    claims=(
        Claim(
            text="Added to cross-entropy it raises IoU.",
            source="abstract, and the tables in the README of its code",
            metric="mIoU",
            direction="higher",
            versus="cross-entropy",
            loss="cross-entropy + 0.3 * inverseform",
        ),
    ),
    expected_failures={
        "check_descent_segments": "a boundary does not say which class is on which side",
    },
    survey_section="2.3.5",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
