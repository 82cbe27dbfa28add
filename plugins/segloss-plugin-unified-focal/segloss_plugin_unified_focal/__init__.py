"""Unified focal loss, symmetric and asymmetric: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Claim, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="unified-focal",
    title="Unified Focal Loss",
    summary="Focal loss and focal Tversky loss in three common parameters: suppresses easy "
    "background and enhances rare foreground, for small lesions in large images.",
    level="combined",
    aliases=("ufl", "sym-unified-focal", "asym-unified-focal", "mixed-focal"),
    good_for=("class-imbalance", "false-negative-control", "small-objects", "medical", "3d"),
    paper=Paper(
        title="Unified Focal loss: Generalising Dice and cross entropy-based losses to handle "
        "class imbalanced medical image segmentation",
        authors=("Michael Yeung", "Evis Sala", "Carola-Bibiane Schönlieb", "Leonardo Rundo"),
        year=2021,
        venue="Computerized Medical Imaging and Graphics 95, 2022",
        arxiv="2102.04525",
        doi="10.1016/j.compmedimag.2021.102026",
    ),
    code=Code(url="https://github.com/mlyg/unified-focal-loss", licence="Apache-2.0"),
    formula=r"L=\lambda\,\frac{1}{NC}\sum_{n,c}(1-TI_{nc})^{e_c}"
    r"+(1-\lambda)\,\frac{1}{M}\sum_i d_{t_i}(1-p_{i t_i})^{g_{t_i}}(-\log p_{i t_i}),\quad "
    r"TI=\frac{TP+\varepsilon}{TP+\delta\,FN+(1-\delta)\,FP+\varepsilon}",
    symbols={
        r"\lambda": "weight, the share of the Tversky half",
        "n, c": "images and classes",
        "i": "the M pixels that are not ignored",
        "p_{i t_i}": "predicted probability of the label of pixel i",
        "TP, FN, FP": "sums of p t, (1 - p) t and p (1 - t) over the pixels of an image",
        "d_c": "delta for rare classes, 1 - delta for others",
        "e_c": "1 - gamma; asymmetric: 1 for classes that are not rare",
        "g_c": "gamma; asymmetric: 0 for rare classes",
        r"\varepsilon": "smooth_nr above, smooth_dr below",
    },
    implementation="segloss_plugin_unified_focal.loss:UnifiedFocalLoss",
    capabilities=Capabilities(
        soft_labels=True, arrangement="sums", classes_alike=False, one_channel_is_two=True
    ),
    relations=(
        Relation(
            kind="combines",
            loss="focal",
            note="times delta or 1 - delta; asymmetric: cross-entropy for rare classes",
        ),
        Relation(
            kind="combines",
            loss="focal-tversky",
            note="its exponent 1 / gamma is 1 - gamma here; asymmetric: for rare classes",
        ),
        Relation(
            kind="related-to",
            loss="dice",
            note="the Tversky half with background at delta=0.5, gamma=0",
        ),
        Relation(
            kind="related-to",
            loss="cross-entropy",
            note="twice the focal half at delta=0.5, gamma=0",
        ),
    ),
    sides={"delta": "false-negative"},
    limits=(
        "An image without foreground stays near a quarter unless next to nothing is predicted of "
        "it: use absent_class='skip' or batch=True.",
        "weight is the share of the Tversky half, as in the official code; MONAI and the survey "
        "give it to the focal half.",
        "In the symmetric form gamma and 1 - gamma change places between the paper's formulas and "
        "its code, which is followed here.",
        "More than two classes are an extension: background is class 0, all others are rare.",
    ),
    claims=(
        Claim(
            text="Where classes are imbalanced it scores as well as or better than six losses of "
            "Dice and cross-entropy.",
            source="abstract",
            metric="Dice",
            direction="higher",
            versus="cross-entropy + dice",
            axis="class-imbalance",
        ),
    ),
    survey_section="2.4.3",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
