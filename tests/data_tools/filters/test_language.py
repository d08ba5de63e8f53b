"""Languages are found offline, and documents of others are dropped by name."""

import pytest

from data_tools.config.filtering import LanguageConfig
from data_tools.filters.language import NUM_SCORES, RELATIVES, AssumedLanguage, LanguageIdentifier, find_bundled_model
from data_tools.tokenizer.sample_texts import OWN_PROSE
from tests.data_tools.declaration import DECLARATION
from tests.data_tools.step_results import apply_step
from trireme.errors import ConfigError


def test_the_model_is_installed():
    assert find_bundled_model().stat().st_size == 938_013


def test_languages_are_found():
    kept, _ = apply_step(LanguageIdentifier(LanguageConfig()), *OWN_PROSE.values())
    assert [document.language for document in kept] == list(OWN_PROSE)
    assert all(0.5 < document.language_score <= 1 for document in kept)


def test_other_languages_are_dropped_and_named():
    identifier = LanguageIdentifier(LanguageConfig(allowed=["en", "ko"]))
    kept, ledger = apply_step(identifier, *OWN_PROSE.values())
    assert [document.language for document in kept] == ["en", "ko"]
    assert ledger.dropped == {"language_zh": 1, "language_ja": 1, "language_ru": 1, "language_ar": 1}


def test_unsure_languages_are_dropped():
    identifier = LanguageIdentifier(LanguageConfig(min_score=0.5))
    kept, ledger = apply_step(identifier, OWN_PROSE["en"], "0101 1100 0110 1010 0111", "")
    assert len(kept) == 1 and ledger.dropped == {"language_unsure": 2}


@pytest.mark.parametrize(
    ("name", "languages"),
    [("hr", "hr"), ("sr_Latn", "sr sh hr"), ("bs", "hr bs sh"), ("gl", "gl"), ("ast", "ast es"), ("min", "id min")],
)
def test_languages_with_close_relatives_are_sure(name, languages):
    identifier = LanguageIdentifier(LanguageConfig(min_score=0.6))
    (document,), ledger = apply_step(identifier, DECLARATION[name])
    assert document.language in languages.split() and not ledger.dropped


def test_only_scores_of_relatives_are_added():
    identifier = LanguageIdentifier(LanguageConfig())
    text = "Der Hund läuft. The dog runs. Le chien court. El perro corre. Il cane corre. De hond loopt. Psy biegają."
    assert identifier.identify(text)[1] < 0.5
    groups = [language for group in RELATIVES for language in group.split()]
    assert len(groups) == len(set(groups)), "no language is in two groups"
    assert max(len(group.split()) for group in RELATIVES) <= NUM_SCORES


def test_only_the_beginning_is_looked_at():
    text = OWN_PROSE["en"][:500] + OWN_PROSE["ru"] * 20
    (short,), _ = apply_step(LanguageIdentifier(LanguageConfig(num_characters=500)), text)
    (long,), _ = apply_step(LanguageIdentifier(LanguageConfig(num_characters=10_000)), text)
    assert (short.language, long.language) == ("en", "ru")


def test_a_language_can_be_assumed():
    (document,), _ = apply_step(AssumedLanguage("th"), OWN_PROSE["en"])
    assert (document.language, document.language_score) == ("th", 1.0)


def test_a_file_that_is_no_model_is_named(tmp_path):
    path = tmp_path / "model.ftz"
    path.write_bytes(b"no model")
    with pytest.raises(ConfigError, match="model_path: cannot load the model: .*model.ftz"):
        LanguageIdentifier(LanguageConfig(model_path=str(path)))
