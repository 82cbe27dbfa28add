from segloss_hub.testing import OracleCase, parametrize_oracle


@parametrize_oracle(__file__)
def test_oracle(case: OracleCase) -> None:
    case.check()
