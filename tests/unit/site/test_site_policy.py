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
        ("[budget]\nepsilon = nan", "finite"),
        ("[demands]\nmin_noise_stddev = -1", "at least 0"),
        ("[demands]\nmax_rounds = 0", "at least 1"),
        ("[training]\nanswer_after = 1e300", "answer_after"),
        ("[agent]\nread_seconds = 1e300", "read_seconds"),
        ("[demands]\nunit = 'person'", "demands.unit"),
        ("[demands]\nmax_sampling_probability = 0.1", "max_sampling_probability is about examples"),
        ("[budget]\nsites_per_person = 2", "sites_per_person is about examples"),
        ("[demands]\nunit = 'example'\n[budget]\nsites_per_person = 2", "add_remove and zero_out only"),
        ("agent = 3", "must be a table"),
        ("[agent", "is not TOML"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_policy(path)


def test_the_demands_and_the_budget_are_of_one_unit(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[demands]\nunit = 'example'\nmax_sampling_probability = 0.25\n[budget]\nadjacency = 'zero_out'")
    policy = load_policy(path)
    assert (policy.client.level, policy.client.max_sampling_probability) == ("example", 0.25)
    assert (policy.unit.level, policy.unit.adjacency) == ("example", "zero_out")
    assert policy.unit_in_words == "one example"
    assert Policy().client.level == Policy().unit.level == "client"
