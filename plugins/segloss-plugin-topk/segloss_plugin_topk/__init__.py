"""TopK loss, also as OHEM by a threshold: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="topk",
    title="TopK Loss",
    summary="Cross-entropy of the hardest pixels alone, a fixed share of them or those below a "
    "probability: keeps the easy majority from deciding the gradient.",
    level="pixel",
    aliases=("topk-ce", "ohem-ce", "online-bootstrapping", "hard-pixel-mining"),
    good_for=("hard-examples", "class-imbalance", "small-objects", "3d"),
    paper=Paper(
        title="Bridging Category-level and Instance-level Semantic Image Segmentation",
        authors=("Zifeng Wu", "Chunhua Shen", "Anton van den Hengel"),
        year=2016,
        arxiv="1605.06885",
    ),
    code=Code(url="https://github.com/itijyou/ademxapp", licence="Apache-2.0"),
    formula=r"L=\frac{1}{|K|}\sum_{n\in K}\ell_n,\quad\ell_n=-\log p_{n,t_n},\qquad "
    r"K=\{n:\ell_n\text{ among the }k\,\%\text{ largest}\}\ \text{or}\ "
    r"K=\{n:p_{n,t_n}\le\max(\theta,p_{(m)})\}",
    symbols={
        "K": "the pixels that are kept",
        "p_{n,t_n}": "predicted probability of the label of pixel n",
        "k": "percent of the pixels",
        r"\theta": "threshold",
        "p_{(m)}": "the m-th smallest probability of a label, with m = min_kept",
    },
    implementation="segloss_plugin_topk.loss:TopKLoss",
    capabilities=Capabilities(
        multilabel=True, soft_labels=True, one_channel_is_two=True, soft_label_minimum=True
    ),
    relations=(
        Relation(kind="generalises", loss="cross-entropy", parameters={"k": 100}),
        Relation(kind="related-to", loss="focal", note="fades easy pixels where this drops them"),
    ),
    limits=(
        "Wrong labels are the hardest pixels: start with k = 100 and lower it once most of the "
        "image is right.",
        "The hardest pixels of a batch may all lie in one image: scope='image' gives each its "
        "share.",
        "min_kept is a number of pixels: what share that is changes with crop and batch size.",
        "Under distributed training each rank has hardest pixels of its own unless sync_stats is "
        "on.",
    ),
    expected_failures={
        "check_equal_class_weights_change_nothing": "The weights scale the likelihoods before they "
        "are ranked, and the mean divides by the number of kept pixels, not by their weights."
    },
    survey_section="2.1.2",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
