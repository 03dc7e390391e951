"""The issue's figure for an accountant: Poisson sampling 0.01, noise multiplier 1, 1000 rounds, delta 1e-5."""

from privfl.dp import Poisson, what_if


def test_the_published_figure_is_met_and_never_undercut() -> None:
    report = what_if(sampling=Poisson(0.01), noise_multiplier=1.0, rounds=1000, delta=1e-5, cross_checks=False)
    assert 1.828 <= report.epsilon <= 1.830
