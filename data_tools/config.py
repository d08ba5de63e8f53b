"""What a data preparation is told: the schema of conf/data_prep.yaml, one documented field per setting."""

from dataclasses import dataclass, field
from typing import Any, Literal

from data_tools.quality_config import (
    LanguageConfig,
    LineConfig,
    PersonalDataConfig,
    QualityConfig,
    UrlFilterConfig,
)


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Raw input of one kind."""

    name: str
    """Name of the source in the ledger and in the document tables."""
    kind: Literal["warc", "wikipedia", "jsonl", "text"]
    """warc: web archives (.warc, .warc.gz, .wet); wikipedia: a pages-articles dump (.xml, .bz2, .gz); jsonl: one JSON
    object a line; text: plain text. Compression (gzip, bzip2, xz, zstd) is recognised by content."""
    paths: list[str]
    """Files: local paths, glob patterns, http(s):// addresses, or anything else that fsspec opens."""
    text_field: str = "text"
    """jsonl: key of the text."""
    id_field: str = "id"
    """jsonl: key of the document's identifier; a record without it gets none."""
    url_field: str = "url"
    """jsonl: key of the document's address."""
    title_field: str = "title"
    """jsonl: key of the document's title."""
    split_text: Literal["file", "paragraph", "line"] = "file"
    """text: what one document is: a whole file, a run of lines without a blank one, or a line."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """Options for fsspec, such as {anon: true} for public S3 buckets."""


@dataclass(frozen=True, kw_only=True)
class HtmlConfig:
    """How text is taken out of web pages."""

    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"
    """trafilatura keeps less of what is no text, loses more text, and takes about twenty times as long; it must be
    installed (pip install 'trireme[trafilatura]')."""
    main_content: bool = True
    """Leave navigation, headers, footers and the like out; false keeps all visible text."""
    list_bullets: bool = True
    """Write a bullet in front of list items."""
    comments: bool = False
    """Keep what looks like readers' comments."""


@dataclass(frozen=True, kw_only=True)
class WikipediaConfig:
    """How text is taken out of wiki mark-up."""

    namespaces: list[int] = field(default_factory=lambda: [0])
    """Namespaces whose pages are kept; 0 holds the articles."""
    prepend_title: bool = True
    """Start each document with the page's title."""
    keep_math: bool = True
    """Keep formulas as $LaTeX$; false removes them."""
    drop_sections: list[str] = field(
        default_factory=lambda: [
            "References",
            "External links",
            "See also",
            "Further reading",
            "Notes",
            "Footnotes",
            "Bibliography",
            "Sources",
            "Notes and references",
            "Citations",
        ]
    )
    """Sections, with what is below them, that are no prose; compared without regard to case."""


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


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Which documents are held out for validation."""

    validation_fraction: float = 0.01
    """Share of documents held out; 0 holds none out. The choice rests on each text's own hash, so it does not move when
    data is added, and equal texts never stand on both sides."""
    seed: int = 1234
    """Another seed chooses other documents."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The SentencePiece tokenizer: trained on the documents, or given."""

    path: str | None = None
    """An existing SentencePiece .model; null trains one."""
    model_type: Literal["unigram", "bpe"] = "unigram"
    """unigram tokenizes about five times as fast; bpe trains about ten times as fast."""
    vocab_size: int = 32000
    """Pieces, with the 256 byte pieces and the special ones; a multiple of vocab_multiple."""
    vocab_multiple: int = 128
    """The vocabulary is a multiple of this, so that tensor parallelism can divide it."""
    character_coverage: float = 0.9995
    """Share of all characters that get their own piece; the rest is written in bytes."""
    sample_characters: int = 100_000_000
    """Most characters of training documents that the tokenizer is trained on; whole documents are sampled."""
    special_tokens: list[str] = field(default_factory=list)
    """Further pieces that are never split, such as chat markers."""
    num_threads: int = 8
    """Threads of the training. Part of the result: sums are split over them."""


@dataclass(frozen=True, kw_only=True)
class DataPrepConfig:
    """Everything that one data preparation is told."""

    output_dir: str
    """Directory for the shards, tokenizer, documents and ledger."""
    sources: list[SourceConfig]
    """Raw input, read in this order."""
    html: HtmlConfig = field(default_factory=HtmlConfig)
    """Web pages."""
    wikipedia: WikipediaConfig = field(default_factory=WikipediaConfig)
    """Wiki pages."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    """Languages of documents."""
    url_filter: UrlFilterConfig = field(default_factory=UrlFilterConfig)
    """Dropping by address."""
    lines: LineConfig = field(default_factory=LineConfig)
    """Removing lines."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Dropping what is no prose."""
    personal_data: PersonalDataConfig = field(default_factory=PersonalDataConfig)
    """Masking."""
    further_steps: list[dict[str, Any]] = field(default_factory=list)
    """Steps of your own, after all others: {_target_: package.module.Class, ...arguments}. See
    docs/data_preparation.md."""
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    """Dropping by size and of duplicates."""
    near_duplicates: NearDuplicatesConfig = field(default_factory=NearDuplicatesConfig)
    """Dropping of near duplicates."""
    evaluations: list[SourceConfig] = field(default_factory=list)
    """Texts that no document may hold a piece of: evaluation questions and answers, of kind jsonl or text. Name a file
    twice, with another text_field, to use two of its fields."""
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    """Dropping of what holds evaluation texts."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Training and validation."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer."""
    batch_bytes: int = 512 << 10
    """Raw bytes that a worker process gets at a time. Smaller spreads small inputs better."""
    num_workers: int | None = None
    """Worker processes; null takes one per CPU. The output does not depend on it."""
    overwrite: bool = False
    """Replace another finished preparation in output_dir."""
    progress: Literal["auto", "on", "off"] = "auto"
    """Progress bars; auto draws them on a terminal and writes plain lines elsewhere."""


@dataclass(frozen=True, kw_only=True)
class DataPrepRoot:
    """The root of conf/data_prep.yaml: its group."""

    data_prep: DataPrepConfig
    """The preparation."""
