"""Log-cosh Dice: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="log-cosh-dice",
    title="Log-Cosh Dice Loss",
    summary="The logarithm of the hyperbolic cosine of the Dice loss: quadratic near its minimum, "
    "so that steps shrink as the overlap grows.",
    level="region",
    aliases=("lc-dice", "logcosh-dice"),
    good_for=("class-imbalance", "smooth-optimisation", "medical"),
    paper=Paper(
        title="A survey of loss functions for semantic segmentation",
        authors=("Shruti Jadon",),
        year=2020,
        venue="IEEE CIBCB 2020",
        arxiv="2006.14822",
    ),
    code=Code(
        url="https://github.com/shruti-jadon/Semantic-Segmentation-Loss-Functions", licence="MIT"
    ),
    formula=r"L=\log\cosh\left(1-\frac{2\sum_i p_i g_i+\varepsilon}{\sum_i p_i+\sum_i g_i"
    r"+\varepsilon}\right)",
    symbols={
        "p_i": "predicted probability",
        "g_i": "truth, 0 or 1",
        "i": "pixels, classes and images; one class with joint=False, one image with batch=False",
        r"\varepsilon": "smooth_nr above, smooth_dr below",
    },
    implementation="segloss_plugin_log_cosh_dice.loss:LogCoshDiceLoss",
    capabilities=Capabilities(multilabel=True, soft_labels=True, arrangement="sums"),
    relations=(
        Relation(
            kind="related-to",
            loss="dice",
            note="a growing function of it (batch=True, joint=True, smoothing 1)",
        ),
    ),
    limits=(
        "It ranks predictions as Dice does; its gradient is that of Dice times tanh of the loss, "
        "at most 0.76: compare the two at rescaled learning rates.",
        "At most 0.43, and usually 0.1 to 0.3: a weight of 1 beside cross-entropy is little.",
        "One ratio over all classes lets large classes rule: joint=False scores each.",
        "A soft label of 0.5 is best answered with 1, not with 0.5.",
        "float16 training needs a gradient scaler: gradients per pixel are about 1e-7 at 512x512.",
    ),
    survey_section="2.2.2",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
