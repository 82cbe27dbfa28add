from segloss_hub.testing import ConformanceCase, parametrize_conformance


@parametrize_conformance("hausdorff")
def test_conformance(case: ConformanceCase) -> None:
    case.check()
