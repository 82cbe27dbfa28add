from segloss_hub.testing import ConformanceCase, parametrize_conformance


@parametrize_conformance("log-cosh-dice")
def test_conformance(case: ConformanceCase) -> None:
    case.check()
