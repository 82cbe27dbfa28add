"""Distance-penalised cross-entropy: card and hook. Imports no torch."""

from segloss_hub import Capabilities, Code, LossCard, Paper, Relation, hookimpl

CARD = LossCard(
    name="distance-penalized-ce",
    title="Distance Map Derived Cross-Entropy Loss",
    summary="Cross-entropy that weighs pixels up to twice as much towards the contour of their "
    "region: sharpens boundaries without leaving the interior untrained.",
    level="pixel",
    aliases=("dpce", "dmce", "dist-penalized-ce", "distance-map-loss"),
    good_for=("boundary-quality", "3d", "partial-volume"),
    paper=Paper(
        title="Distance Map Loss Penalty Term for Semantic Segmentation",
        authors=(
            "Francesco Calivá",
            "Claudia Iriondo",
            "Alejandro Morales Martinez",
            "Sharmila Majumdar",
            "Valentina Pedoia",
        ),
        year=2019,
        venue="MIDL 2019",
        arxiv="1908.03679",
    ),
    code=Code(
        url="https://github.com/JunMa11/SegLossOdyssey", licence="Apache-2.0", official=False
    ),
    formula=r"L=\frac{1}{|V|}\sum_{n\in V}-(1+\Phi_n)\log p_{n,t_n},\qquad "
    r"\Phi_n=\frac{\max_{m\in R(n)}d_m-d_n}{\max_{m\in R(n)}d_m-\min_{m\in R(n)}d_m}",
    symbols={
        "V": "pixels that are not ignored",
        "p_{n,t_n}": "predicted probability of the label of pixel n",
        "R(n)": "the pixels of the same class in the same image",
        "d_n": "Euclidean distance of pixel n to the nearest of another class",
        r"\Phi_n": "reversed map: 1 next to the boundary, 0 at the deepest pixel",
    },
    implementation="segloss_plugin_distance_penalized_ce.loss:DistancePenalizedCELoss",
    capabilities=Capabilities(multilabel=True, arrangement="spatial", one_channel_is_two=True),
    inputs=("distance_map",),
    relations=(
        Relation(kind="related-to", loss="cross-entropy", note="which it is where Phi is 0"),
        Relation(kind="related-to", loss="boundary", note="whose signed map makes it negative"),
    ),
    limits=(
        "The map of a crop is not the crop of the map: the weight of a background pixel depends on "
        "how much background is in view.",
        "Maps are made on the CPU: pass distance_map from the data loader to spare a GPU the wait.",
        "SegLossOdyssey's DisPenalizedCE computes the weights and then returns plain "
        "cross-entropy: results obtained with it are not of this loss.",
    ),
    survey_section="2.1.4",
)


@hookimpl
def segloss_losses() -> list[LossCard]:
    return [CARD]
