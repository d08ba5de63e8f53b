"""The settings of filters are checked together with all others."""

from typing import Any

import pytest

from data_tools.config.filtering import LanguageConfig, QualityConfig, QualityThresholds, UrlFilterConfig
from data_tools.config.rules import validate
from data_tools.config.schema import DataPrepConfig, HtmlConfig, SourceConfig
from data_tools.stages.preparation import load_task
from trireme.errors import ConfigError


def problems(tmp_path, **settings: Any) -> dict[str, str]:
    source = SourceConfig(name="a", kind="text", paths=["a"])
    config = DataPrepConfig(output_dir=str(tmp_path), sources=[source], **settings)
    return {violation.path.removeprefix("data_prep."): violation.fix for violation in validate(config)}


IDENTIFY = LanguageConfig(identify=True)
RULES: Any = ["c4"]


def test_good_settings(tmp_path):
    assert problems(tmp_path) == {}
    assert problems(tmp_path, language=IDENTIFY, quality=QualityConfig(rules=RULES)) == {}
    assert problems(tmp_path, language=LanguageConfig(assume="yue"), quality=QualityConfig(rules=RULES)) == {}
    assert problems(tmp_path, custom_filters=[{"_target_": "pathlib.Path"}]) == {}


@pytest.mark.parametrize(
    ("settings", "paths"),
    [
        ({"quality": QualityConfig(rules=RULES)}, ["quality.rules"]),
        ({"language": LanguageConfig(identify=True, assume="en")}, ["language.assume"]),
        ({"language": LanguageConfig(allowed=["en"])}, ["language.allowed"]),
        ({"language": LanguageConfig(identify=True, allowed=["English"])}, ["language.allowed"]),
        ({"language": LanguageConfig(min_score=1.5)}, ["language.min_score"]),
        ({"language": LanguageConfig(identify=True, model_path="/no/model")}, ["language.model_path"]),
        ({"url_filter": UrlFilterConfig(block_lists=["/no/list"])}, ["url_filter.block_lists[0]"]),
        ({"quality": QualityConfig(by_language={"en": {"min_wordz": 1}})}, ["quality.by_language.en.min_wordz"]),
        ({"quality": QualityConfig(by_language={"en": {"min_words": -1}})}, ["quality.by_language.en.min_words"]),
        (
            {"quality": QualityConfig(thresholds=QualityThresholds(max_newline_ratio=-1))},
            ["quality.thresholds.max_newline_ratio"],
        ),
        (
            {"quality": QualityConfig(thresholds=QualityThresholds(max_top_ngram_shares=[2.0]))},
            ["quality.thresholds.max_top_ngram_shares"],
        ),
        ({"custom_filters": [{"size": 1}]}, ["custom_filters[0]._target_"]),
        ({"custom_filters": [{"_target_": "no_such_module.Filter"}]}, ["custom_filters[0]._target_"]),
    ],
)
def test_bad_settings_are_named(tmp_path, settings, paths):
    found = problems(tmp_path, **settings)
    assert list(found) == paths and all(found.values())


def test_an_extractor_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = HtmlConfig(extractor="trafilatura", main_content=False)
    assert "pip install" in problems(tmp_path, html=settings)["html.extractor"]
    assert "html.main_content" in problems(tmp_path, html=settings)


def test_the_former_name_of_custom_filters_is_rejected_with_the_new_one(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    source = f"data_prep.sources=[{{name:a,kind:text,paths:['{tmp_path}/a.txt']}}]"
    with pytest.raises(ConfigError) as caught:
        load_task([source, f"data_prep.output_dir={tmp_path}", "data_prep.further_steps=[{_target_:a.B}]"])
    assert str(caught.value) == "data_prep.further_steps: was renamed. Use data_prep.custom_filters."
