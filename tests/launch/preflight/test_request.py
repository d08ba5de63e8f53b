import pytest

from launch.preflight.cli import parse_request
from trireme.errors import ConfigError


def test_own_keys_are_taken_out_of_the_overrides() -> None:
    request = parse_request(["model=llama_70b", "sniff=true", "checksums=false", "accept=[layout, disk]", "run_name=a"])
    assert request.overrides == ("model=llama_70b", "run_name=a")
    assert (request.sniff, request.checksums, request.on_nodes) == (True, False, False)
    assert request.accept == {"layout", "disk"}


def test_a_test_on_the_nodes_is_a_sniff_test() -> None:
    assert parse_request(["on_nodes=true"]).sniff


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_request(["sniff=yes", "accept=layuot", "--fast"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "sniff=yes is neither true nor false" in lines[0]
    assert "did you mean layout?" in lines[1]
    assert lines[2].startswith("option=--fast is unknown")


def test_a_misspelled_word_is_no_field_of_the_configuration() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_request(["acept=layout", "--on-nodes=true", "model=llama_8b", "experiment=x", "tokenizer.path=x"])
    assert [str(problem).partition(";")[0] for problem in caught.value.violations] == [
        "acept=layout is neither a word of this command nor a field of the configuration",
        "option=--on-nodes=true is unknown",
    ]
    assert all("did you mean" in str(problem) for problem in caught.value.violations)
