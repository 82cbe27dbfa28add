"""Cross-entropy, weighted and label-smoothed: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="cross-entropy",
    title="Cross-Entropy Loss",
    summary="Mean negative log-likelihood of the true class: the baseline, calibrated and smooth, "
    "but ruled by the frequent classes unless weighted.",
    level="pixel",
    aliases=("ce", "bce", "softmax-ce", "weighted-ce", "wce", "label-smoothing-ce"),
    good_for=("baseline", "class-imbalance", "calibration", "3d"),
    # No single paper introduced it; this one made it the loss of dense prediction.
    paper=Paper(
        title="Fully Convolutional Networks for Semantic Segmentation",
        authors=("Jonathan Long", "Evan Shelhamer", "Trevor Darrell"),
        year=2015,
        venue="CVPR 2015",
        arxiv="1411.4038",
    ),
    code=Code(url="https://github.com/pytorch/pytorch", licence="BSD-3-Clause", official=False),
    formula=r"L=\frac{\sum_{n\in V} w_{t_n}\left[(1-\epsilon)\,\ell_{n,t_n}"
    r"+\frac{\epsilon}{C}\sum_{c}\frac{w_c}{w_{t_n}}\,\ell_{n,c}\right]}{\sum_{n\in V} w_{t_n}},"
    r"\quad \ell_{n,c}=-\log p_{n,c}",
    symbols={
        "V": "pixels that are not ignored",
        "t_n": "label of pixel n",
        "p": "softmax probability",
        "w_c": "class weight, 1 if none",
        r"\epsilon": "label smoothing",
        "C": "number of classes",
    },
    implementation="segloss_plugin_cross_entropy.loss:CrossEntropyLoss",
    capabilities=Capabilities(
        multilabel=True,
        soft_labels=True,
        arrangement="pixel",
        one_channel_is_two=True,
        soft_label_minimum=True,
    ),
    relations=(Relation(kind="special-case-of", loss="focal", parameters={"gamma": 0}),),
    limits=(
        "The mean runs over the pixels of the batch: images with more valid pixels count more.",
        "MMSegmentation's own CrossEntropyLoss divides by ignored pixels too: normalizer='all'.",
        "Under distributed training each rank divides by its own count of valid pixels.",
        "Weights from one batch's class frequencies explode for rare classes: use the data set's.",
    ),
    survey_section="2.1.1",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
