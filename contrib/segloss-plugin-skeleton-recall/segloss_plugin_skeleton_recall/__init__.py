"""Card and hooks; imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segloss_hub import Capabilities, Code, LossCard, Paper, Relation, hookimpl

if TYPE_CHECKING:
    from segloss_hub.testing.check import Check

CARD = LossCard(
    name="skeleton-recall",
    title="Skeleton Recall Loss",
    summary="The share of the objects' centre lines, widened to tubes, that a prediction misses: "
    "keeps thin structures connected, beside a loss that looks at the rest.",
    level="region",
    aliases=("skelrec", "srec"),
    good_for=("thin-structures", "structure"),
    paper=Paper(
        title="Skeleton Recall Loss for Connectivity Conserving and Resource Efficient "
        "Segmentation of Thin Tubular Structures",
        authors=(
            "Yannick Kirchhoff",
            "Maximilian R. Rokuss",
            "Saikat Roy",
            "Balint Kovacs",
            "Constantin Ulrich",
            "Tassilo Wald",
            "Maximilian Zenk",
            "Philipp Vollmuth",
            "Jens Kleesiek",
            "Fabian Isensee",
            "Klaus Maier-Hein",
        ),
        year=2024,
        venue="ECCV 2024",
        arxiv="2404.03010",
        doi="10.1007/978-3-031-72980-5_13",
    ),
    code=Code(url="https://github.com/MIC-DKFZ/Skeleton-Recall", licence="Apache-2.0"),
    formula=r"L=\frac{1}{N|C|}\sum_{n,c}\left(1-\frac{\sum_{i\in T_{nc}}p_{nic}+\varepsilon}"
    r"{|T_{nc}|+\varepsilon}\right)",
    symbols={
        "p_{nic}": "predicted probability of class c at pixel i of image n, of N",
        "T_{nc}": "the pixels of class c at most width steps from the objects' centre line",
        "C": "the classes, without the background",
        r"\varepsilon": "smooth",
    },
    implementation="segloss_plugin_skeleton_recall.loss:SkeletonRecallLoss",
    capabilities=Capabilities(
        multilabel=True, arrangement="spatial", classes_alike=False, one_channel_is_two=True
    ),
    trained_as="cross-entropy + dice + skeleton-recall",
    relations=(
        Relation(
            kind="related-to", loss="dice", note="trained as cross-entropy + dice + skeleton-recall"
        ),
        Relation(
            kind="related-to",
            loss="tversky",
            note="its index at fp_weight=0 and fn_weight=1, of the tubes in place of the objects",
        ),
    ),
    limits=(
        "A recall alone: to predict an object everywhere is free, so train it beside other losses.",
        "All classes are thinned together: a class that the centre line does not pass by has no "
        "tube, and costs nothing.",
        "Centre lines are made on the CPU, once per batch: in large volumes that takes longer than "
        "the loss itself.",
        "The thinning of a mirrored image is not the mirrored thinning: tubes may lie a pixel off.",
    ),
    expected_failures={
        "check_more_error_costs_more": "a recall: what is predicted beyond the tube costs nothing",
        "check_flips": "thinning visits pixels in one order: the line of an even width is off to "
        "one side",
        "check_descent_segments": "only the tube has a gradient: other losses see to the rest",
    },
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]


@hookimpl
def segloss_checks() -> list[Check]:
    from segloss_plugin_skeleton_recall.checks import check_gaps_cost_and_edges_do_not

    return [check_gaps_cost_and_edges_do_not]
