"""policy.toml: every default as text, and each value that is refused."""

from pathlib import Path

import pytest

from privfl.errors import ConfigError
from privfl.site.policy import Policy, commented_policy, load_policy


def test_the_commented_policy_is_the_default_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(commented_policy())
    assert load_policy(path) == Policy()
    assert path.read_text().count("\n# ") > 25  # each key below its meaning


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[demand]\nmin_cohort = 3", "demand"),
        ("[demands]\nmin_cohorts = 3", "did you mean demands.min_cohort"),
        ("[demands]\nmin_cohort = 0", "at least 1"),
        ("[demands]\nmin_cohort = '3'", "an integer"),
        ("[demands]\nplacements = ['distributd']", "placements"),
        ("[demands]\nschemes = ['rot13']", "schemes"),
        ("[budget]\nepsilon = 0", "greater than 0"),
        ("[budget]\nepsilon = inf", "finite"),
        ("[budget]\ndelta = 1.0", "delta"),
        ("[server]\nkey = 'abc'", "server.key must be 64"),
        ("[training]\nsha256 = 'ABC'", "training.sha256 must be 64"),
        ("[agent]\nmax_connections = 1", "max_connections"),
        ("agent = 3", "must be a table"),
        ("[agent", "is not TOML"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_policy(path)


def test_an_agent_takes_part_in_plans_about_clients_only() -> None:
    """Its account and its child process are of whole sites: a sum over examples is refused before it trains."""
    assert Policy().client.level == "client"
