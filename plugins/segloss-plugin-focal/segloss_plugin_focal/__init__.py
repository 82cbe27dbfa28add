"""Focal loss, softmax and sigmoid: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="focal",
    title="Focal Loss",
    summary="Cross-entropy that fades where the prediction is already right, so that many easy "
    "pixels do not drown the few hard ones.",
    level="pixel",
    aliases=("focal-ce", "sigmoid-focal", "softmax-focal", "binary-focal"),
    good_for=("class-imbalance", "hard-examples", "small-objects", "3d"),
    paper=Paper(
        title="Focal Loss for Dense Object Detection",
        authors=("Tsung-Yi Lin", "Priya Goyal", "Ross Girshick", "Kaiming He", "Piotr Dollár"),
        year=2017,
        venue="ICCV 2017",
        arxiv="1708.02002",
        doi="10.1109/ICCV.2017.324",
    ),
    code=Code(url="https://github.com/facebookresearch/Detectron", licence="Apache-2.0"),
    formula=r"L=\frac{1}{|V|}\sum_{n\in V}-\alpha_{t_n}(1-p_{n,t_n})^{\gamma}\log p_{n,t_n}",
    symbols={
        "V": "pixels that are not ignored",
        "t_n": "label of pixel n",
        "p_{n,t_n}": "predicted probability of the label",
        r"\gamma": "focusing exponent",
        r"\alpha_c": "weight of class c: alpha, of class 0 one minus it; 1 if there is none",
    },
    implementation="segloss_plugin_focal.loss:FocalLoss",
    capabilities=Capabilities(
        multilabel=True, soft_labels=True, arrangement="pixel", one_channel_is_two=True
    ),
    relations=(
        Relation(kind="generalises", loss="cross-entropy", parameters={"gamma": 0}),
        Relation(kind="related-to", loss="topk", note="drops easy pixels where this fades them"),
    ),
    sides={"alpha": "false-negative"},
    limits=(
        "With gamma 2 the mean is several times smaller than cross-entropy: raise its weight or "
        "the learning rate.",
        "Several sigmoids start with a huge sum over negatives unless the last bias is set to "
        "-log((1 - 0.01) / 0.01), as in the paper.",
        "Its probabilities are less certain than they should be: calibrate them before use.",
        "kornia and MONAI divide the softmax form by the number of classes too: C times smaller.",
        "Noisy labels look like hard pixels and keep their full weight.",
    ),
    claims=(
        Claim(
            text="Where easy background outnumbers the objects by far, fading out the easy pixels "
            "finds more than cross-entropy; said of detection, asked here of the Dice score.",
            source="abstract",
            metric="Dice",
            direction="higher",
            versus="cross-entropy",
            axis="class-imbalance",
        ),
    ),
    survey_section="2.1.3",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
