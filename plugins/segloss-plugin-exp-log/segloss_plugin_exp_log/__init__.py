"""Exponential logarithmic loss: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="exp-log",
    title="Exponential Logarithmic Loss",
    summary="Powers of the logarithms of Dice score and likelihood: below 1 they keep a slope for "
    "labels that are nearly right, so that small and large objects train alike.",
    level="combined",
    aliases=("ell", "exp-log-dice-ce", "exponential-logarithmic"),
    good_for=("class-imbalance", "small-objects", "medical", "3d"),
    paper=Paper(
        title="3D Segmentation with Exponential Logarithmic Loss for Highly Unbalanced Object "
        "Sizes",
        authors=("Ken C. L. Wong", "Mehdi Moradi", "Hui Tang", "Tanveer Syeda-Mahmood"),
        year=2018,
        venue="MICCAI 2018",
        arxiv="1809.00076",
        doi="10.1007/978-3-030-00931-1_70",
    ),
    code=Code(url="https://github.com/IBM/multimodal-3d-image-segmentation", licence="Apache-2.0"),
    formula=r"L=w_D\,\mathbb{E}_c\!\left[(-\log D_c)^{\gamma_D}\right]"
    r"+w_X\,\mathbb{E}_i\!\left[w_{t_i}(-\log p_{i t_i})^{\gamma_X}\right],\quad "
    r"D_c=\frac{2\sum_i p_{ic}g_{ic}+\varepsilon}{\sum_i(p_{ic}+g_{ic})+\varepsilon},\quad "
    r"w_c=\Big(\frac{\sum_k f_k}{f_c}\Big)^{1/2}",
    symbols={
        "i": "pixels that are not ignored",
        "c": "class, in the first mean of each image",
        "p_{ic}": "predicted probability of class c at pixel i",
        "g_{ic}": "truth, 0 or 1",
        "t_i": "label of pixel i",
        "f_c": "frequency of label c in the training set; class_weight takes w itself",
        r"\varepsilon": "smooth_nr above, smooth_dr below",
    },
    implementation="segloss_plugin_exp_log.loss:ExpLogLoss",
    capabilities=Capabilities(multilabel=True, soft_labels=True, arrangement="sums"),
    relations=(
        Relation(
            kind="generalises",
            loss="cross-entropy",
            parameters={"w_dice": 0, "w_cross": 1, "gamma_cross": 1},
        ),
        Relation(kind="combines", loss="cross-entropy", note="each pixel's to the power"),
        Relation(kind="combines", loss="dice", note="the logarithm of the score to the power"),
    ),
    limits=(
        "With exponents below 1 the gradient grows without bound as an error vanishes: use a "
        "learning rate that falls, and expect noise near the minimum.",
        "Label weights scale the cross-entropy half: with large ones lower w_cross.",
        "Per image, an absent class is penalised for every pixel predicted: use batch=True or "
        "absent_class='skip' where most images lack most classes.",
        "The official code has the Dice half alone, with other smoothing: see the docstring.",
    ),
    expected_failures={
        "check_equal_class_weights_change_nothing": "the paper's label weights scale the "
        "cross-entropy half; they are no shares that the mean is divided by",
        "check_perfect_prediction_has_no_gradient": "the gradient falls as the 0.3rd power of the "
        "error only: at the logits of 40 that the check takes for perfect it is 1e-8",
    },
    survey_section="2.4.2",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
