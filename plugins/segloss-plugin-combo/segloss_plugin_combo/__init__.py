"""Combo loss, cross-entropy and Dice: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="combo",
    title="Combo Loss",
    summary="Binary cross-entropy over all classes minus one Dice score: smooth gradients and "
    "overlap at once, with one weight to trade false negatives for false positives.",
    level="combined",
    aliases=("combo-loss", "dice-wce"),
    good_for=("class-imbalance", "false-negative-control", "medical", "3d"),
    paper=Paper(
        title="Combo loss: Handling input and output imbalance in multi-organ segmentation",
        authors=(
            "Saeid Asgari Taghanaki",
            "Yefeng Zheng",
            "S. Kevin Zhou",
            "Bogdan Georgescu",
            "Puneet Sharma",
            "Daguang Xu",
            "Dorin Comaniciu",
            "Ghassan Hamarneh",
        ),
        year=2019,
        venue="Computerized Medical Imaging and Graphics 75",
        arxiv="1805.02798",
    ),
    code=Code(url="https://github.com/asgsaeid/ComboLoss", licence="MIT"),
    formula=r"L=-\frac{\alpha}{M}\sum_i\left[\beta\,t_i\log p_i+(1-\beta)(1-t_i)\log(1-p_i)\right]"
    r"-(1-\alpha)\,\frac{2\sum_i t_i p_i+S}{\sum_i t_i+\sum_i p_i+S}",
    symbols={
        "i": "the pairs of a valid pixel and a class, of the whole batch",
        "M": "their number",
        "p_i": "predicted probability of the class at the pixel",
        "t_i": "truth, 0 or 1",
        r"\alpha": "share of the cross-entropy",
        r"\beta": "weight of the positives",
        "S": "smooth_nr above, smooth_dr below",
    },
    implementation="segloss_plugin_combo.loss:ComboLoss",
    capabilities=Capabilities(
        multilabel=True, soft_labels=True, may_be_negative=True, arrangement="sums"
    ),
    relations=(
        Relation(
            kind="generalises",
            loss="dice",
            parameters={
                "alpha": 0,
                "nonnegative": True,
                "batch": False,
                "joint": False,
                "smooth_nr": 1e-5,
                "smooth_dr": 1e-5,
            },
        ),
        Relation(
            kind="combines",
            loss="cross-entropy",
            note="its binary form, with every class against the rest",
        ),
        Relation(kind="combines", loss="dice", note="one score over batch, classes and pixels"),
    ),
    sides={"beta": "false-negative"},
    limits=(
        "With a softmax over two channels beta does nothing: use one channel.",
        "A perfect prediction scores -(1 - alpha): set nonnegative=True where a loss below 0 "
        "disturbs.",
        "One Dice score over everything is that of the largest class: with background, "
        "include_background=False or joint=False gives organs a voice.",
        "The official code rewards the negatives by a misplaced parenthesis: numbers obtained with "
        "it are of another loss.",
    ),
    survey_section="2.4.1",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
