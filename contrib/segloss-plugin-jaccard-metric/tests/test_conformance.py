from segloss_hub.testing import ConformanceCase, parametrize_conformance


@parametrize_conformance("jaccard-metric")
def test_conformance(case: ConformanceCase) -> None:
    case.check()
