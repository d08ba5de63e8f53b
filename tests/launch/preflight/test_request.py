import pytest

from launch.preflight.cli import parse_request
from trireme.errors import ConfigError

GOOD = ("model=llama_8b", "data.train=[{paths:[/data/wiki]}]")


def test_own_keys_are_taken_out_of_the_overrides() -> None:
    request = parse_request(
        ["model=llama_70b", "hardware=true", "checksums=false", "allow=[layout, disk]", "run_name=a"]
    )
    assert request.overrides == ("model=llama_70b", "run_name=a")
    assert (request.hardware, request.checksums, request.on_nodes) == (True, False, False)
    assert request.allow == {"layout", "disk"}


def test_a_check_on_the_nodes_is_a_hardware_check() -> None:
    assert parse_request(["on_nodes=true"]).hardware


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_request(["hardware=yes", "allow=layuot", "--fast", *GOOD, "optimizer.lr=-1"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("--fast: unknown option. Use --help, ")
    assert lines[1] == "hardware: must be a boolean (got yes). Use true or false."
    assert "Did you mean layout?" in lines[2]
    assert lines[3].startswith("optimizer.lr: must be more than 0"), "settings, too"


def test_a_misspelled_word_is_no_field_of_the_configuration() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_request(["alow=layout", "--on-nodes=true", *GOOD])
    assert [str(problem).partition("? ")[0].rstrip("?") for problem in caught.value.violations] == [
        "--on-nodes: settings are written without dashes (got true). Write on_nodes=true.",
        "alow: unknown option (got layout). Did you mean allow",
    ]


def test_a_former_option_is_refused_with_its_new_name() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_request(["sniff=true", "accept=layout", "allow=sniff"])
    lines = str(caught.value).splitlines()
    assert lines[:2] == [
        "sniff: was renamed (got true). Use hardware=true.",
        "accept: was renamed (got layout). Use allow=layout.",
    ]
    assert lines[2].startswith("allow: no such check (got sniff). Did you mean hardware? Use ")
