"""Generalised Wasserstein Dice: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="generalised-wasserstein-dice",
    title="Generalised Wasserstein Dice Loss",
    summary="One Dice ratio for all classes in which a confusion costs the distance between the "
    "two classes: mistakes between related classes are cheaper than those between distant ones.",
    level="region",
    aliases=("gwdl", "wasserstein-dice", "generalized-wasserstein-dice"),
    good_for=("hierarchical-classes", "semantic-distance", "class-imbalance", "3d", "medical"),
    paper=Paper(
        title="Generalised Wasserstein Dice Score for Imbalanced Multi-class Segmentation using "
        "Holistic Convolutional Networks",
        authors=(
            "Lucas Fidon",
            "Wenqi Li",
            "Luis C. Garcia-Peraza-Herrera",
            "Jinendra Ekanayake",
            "Neil Kitchen",
            "Sebastien Ourselin",
            "Tom Vercauteren",
        ),
        year=2017,
        venue="BrainLes 2017 (MICCAI workshop)",
        arxiv="1707.00478",
        doi="10.1007/978-3-319-75238-9_6",
    ),
    code=Code(
        url="https://github.com/LucasFidon/GeneralizedWassersteinDiceLoss", licence="BSD-3-Clause"
    ),
    formula=r"L=1-\frac{2\sum_i\alpha_{t_i}(1-W_i)}{2\sum_i\alpha_{t_i}(1-W_i)+\sum_i W_i},\qquad "
    r"W_i=\sum_l M_{t_i l}\,p_{il},\qquad \alpha_0=0,\quad\alpha_{l>0}=1",
    symbols={
        "M": "distances between the classes, divided by the largest",
        "t_i": "label of pixel i",
        "p_{il}": "predicted probability of class l at pixel i",
        "W_i": "Wasserstein distance between the prediction at pixel i and its label",
        r"\alpha": "weight of a label's hits; class 0 is the background",
        "i": "the pixels of one image, or of the batch with batch=True",
    },
    implementation=(
        "segloss_plugin_generalised_wasserstein_dice.loss:GeneralisedWassersteinDiceLoss"
    ),
    capabilities=Capabilities(arrangement="sums", classes_alike=False, one_channel_is_two=True),
    relations=(
        Relation(
            kind="generalises",
            loss="dice",
            note="with two classes: the Dice of class 1, at equal smoothing",
        ),
    ),
    limits=(
        "An image of background alone scores 1 and teaches nothing unless it is predicted "
        "perfectly: use background_weight, batch=True or weighting_mode='GDL'.",
        "The background is class 0; without one, use background_weight=1 or weighting_mode='GDL'.",
        "The largest distance is always 1: a matrix and its double are the same loss.",
        "A class at distance 0 from another cannot be told from it.",
    ),
    survey_section="2.2.3",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
