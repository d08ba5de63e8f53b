"""The settings of a data preparation: the schema of conf/data_prep.yaml, one documented field per setting."""

from dataclasses import dataclass, field
from typing import Any, Literal

from data_tools.config.filtering import (
    CleaningConfig,
    DecontaminationConfig,
    LanguageConfig,
    LineConfig,
    LineDuplicatesConfig,
    NearDuplicatesConfig,
    PersonalDataConfig,
    QualityConfig,
    UrlFilterConfig,
)
from trireme.config.compose import ConfigRoot
from trireme.config.fields import FORMER_NAMES
from trireme.config.path_text import PathText


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Raw input of one kind."""

    name: str
    """Name of the source in the ledger and the document tables."""
    kind: Literal["warc", "wikipedia", "jsonl", "parquet", "text"]
    """warc: web archives (.warc, .wet, .arc, .wacz); wikipedia: a dump of pages (.xml); jsonl: one JSON object per
    line, or an array of them; parquet: one document per row; text: plain text, and web pages (.html). Compression
    (gzip, bzip2, xz, zstd) is detected from the content."""
    paths: list[PathText]
    """Input files: local paths, glob patterns, folders (all files in them with an extension of the kind), http(s)://
    URLs, or anything else that fsspec opens. A file that ends in .paths or .paths.gz is a list of files, as published
    by Common Crawl (warc.paths.gz)."""
    text_field: str = "text"
    """jsonl, parquet: key or column of the text; content.text names a key within an object. Of a list of texts each
    becomes a line."""
    id_field: str = "id"
    """jsonl, parquet: key or column of the document's identifier; optional."""
    url_field: str = "url"
    """jsonl, parquet: key or column of the document's URL; optional."""
    title_field: str = "title"
    """jsonl, parquet: key or column of the document's title; optional."""
    split_text: Literal["file", "paragraph", "line"] = "file"
    """text: the unit that becomes one document: a whole file, a paragraph (separated by blank lines), or a line."""
    keep_whitespace: bool | None = None
    """jsonl, parquet, text: keep indentation, trailing spaces, blank lines, and the form of composed characters (no
    NFC), as code and Markdown need them; only control characters are removed, and line ends become line feeds. null
    does so for files of kind text with an extension of source code (.py, .c, .md, ...)."""
    wrong_digests: Literal["note", "fail", "ignore"] = "note"
    """warc: how to handle records whose content does not match the digest in their header (of the payload, or of the
    block where there are no HTTP headers). note: read them, with the note digest_wrong in the ledger, since some
    writers compute the digest before decoding; fail: count them as failed; ignore: do not check, which saves 0.7 ms
    per MB."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """Options for fsspec, such as {anon: true} for public S3 buckets."""
    max_retries: int = 6
    """http(s): consecutive attempts without progress before the rest of a file is given up. Broken connections resume
    at the byte where they broke."""
    retry_seconds: float = 1.0
    """http(s): delay before the first retry; it doubles with each retry, up to a minute. A server's Retry-After takes
    precedence."""
    skip_unreadable: bool = False
    """Start even if listed files cannot be read (missing, forbidden, no response): each counts as one failed record.
    false refuses to start. A file that becomes unreadable later counts as failed either way."""


SOURCE_FIELDS_WITHOUT_EFFECT = ("storage_options", "max_retries", "retry_seconds", "skip_unreadable")
"""Fields of a source that control access to its files, not their content; storage_options may hold credentials."""


@dataclass(frozen=True, kw_only=True)
class HtmlConfig:
    """Text extraction from web pages."""

    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"
    """Extractor of text. trafilatura loses more text and takes about sixteen times as long; install it with
    pip install -e '.[trafilatura]'."""
    main_content: bool = True
    """Remove boilerplate such as navigation, headers and footers; false keeps all visible text."""
    list_bullets: bool = True
    """Write a bullet before list items."""
    comments: bool = False
    """Keep what looks like user comments."""


@dataclass(frozen=True, kw_only=True)
class WikipediaConfig:
    """Text extraction from wikitext."""

    namespaces: list[int] = field(default_factory=lambda: [0])
    """Namespaces to keep; 0 holds the articles."""
    prepend_title: bool = True
    """Start each document with the page's title."""
    keep_math: bool = True
    """Keep formulas as $LaTeX$; false removes them."""
    drop_sections: list[str] | None = None
    """Titles of sections to drop with their subsections, regardless of case. null drops references, notes, links,
    literature and "see also" by their titles in the language of the dump and in English
    (data_tools/extract/wikitext/sections.py); [] keeps all sections."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Split into training and validation."""

    validation_fraction: float = 0.01
    """Share of documents held out for validation; 0 holds out none. A document's split depends on the hash of its
    text, so it does not change when data is added, and equal texts are always in the same split."""
    seed: int = 1234
    """Seed of the split."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The tokenizer: a SentencePiece model trained on the documents, or a given one (docs/data/tokenizer.md)."""

    path: PathText | None = None
    """Path of an existing SentencePiece .model or Hugging Face tokenizer.json; null trains a SentencePiece model."""
    eos_token: str | None = None
    """The end-of-document token of an existing tokenizer.json; null uses the eos_token of the tokenizer_config.json
    next to it, else a common one such as </s> or <|endoftext|>."""
    model_type: Literal["unigram", "bpe"] = "unigram"
    """Algorithm. unigram tokenizes about 1.4 times as fast (in SentencePiece alone: five times); bpe trains about ten
    times as fast."""
    vocab_size: int | Literal["auto"] = "auto"
    """Vocabulary size, including the 256 byte pieces and the special tokens; a multiple of vocab_multiple. auto uses
    32000, or as many pieces as the text yields if fewer (for a very short text not a multiple)."""
    vocab_multiple: int = 128
    """The vocabulary size is a multiple of this, so that tensor parallelism can divide it."""
    character_coverage: float = 0.9995
    """Share of all characters that get their own piece; the others are encoded as bytes."""
    split_digits: bool = True
    """Each digit is a piece of its own, so that numbers are encoded consistently; false allows pieces of several
    digits."""
    sample_characters: int = 100_000_000
    """Maximum characters of training documents to train the tokenizer on; whole documents are sampled."""
    sampling_exponent: float = 1.0
    """A language with a share s of all characters gets a share of the sample proportional to s to this power: 1 keeps
    the proportions, 0 gives all languages the same; XLM-R and mT5 use 0.3. Values below 1 require
    language.identify."""
    special_tokens: list[str] = field(default_factory=list)
    """Tokens that text is never encoded to, such as chat markers ["<|im_start|>", "<|im_end|>"]; programs insert them
    by id (SentencePiece's control symbols)."""
    user_defined_symbols: list[str] = field(default_factory=list)
    """Strings that are always encoded as one piece wherever they occur in text; any text can contain them."""
    num_reserved_tokens: int = 0
    """Number of special tokens <|reserved_0|>, <|reserved_1|>, ... reserved for later use."""
    num_threads: int = 8
    """Training threads. The result depends on it, since sums are divided among threads."""


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """Slurm jobs; their template is slurm/data_prep.sbatch."""

    partition: str | None = None
    """Partition; null uses the cluster's default."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    time_limit: str = "12:00:00"
    """Time limit of each job, in sbatch's format. A job that reaches it loses little: rerun the same command."""
    cpus_per_task: int = 8
    """CPUs per job; also the number of worker processes unless num_workers is set."""
    memory: str | None = None
    """Memory per job, such as 32G."""
    max_array_size: int = 1000
    """Maximum size of a job array, the cluster's MaxArraySize (scontrol show config); more shares are submitted as
    several arrays."""
    max_running: int | None = None
    """Maximum simultaneously running jobs of an array; null sets no limit."""
    options: dict[str, Any] = field(default_factory=dict)
    """Additional sbatch options by long name, such as {constraint: milan}; null for one without a value."""
    setup: list[str] = field(default_factory=list)
    """Shell lines to run first, such as module load python."""
    python: PathText | None = None
    """Python interpreter on the nodes; null uses the submitting one."""


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Execution on this machine or a cluster; the output does not depend on it. On a cluster, output_dir and all local
    inputs must be on a file system that every node mounts at the same path."""

    kind: Literal["local", "slurm", "ray"] = "local"
    """local: processes on this machine; slurm: job arrays; ray: tasks of an existing Ray cluster."""
    num_shares: int = 16
    """slurm, ray: shares into which reading and tokenizing are divided; each file is read by one share."""
    dry_run: bool = False
    """slurm: print the job scripts without submitting them."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """Settings of the executor slurm."""
    ray_address: str = "auto"
    """ray: address of the cluster."""
    ray_cpus_per_share: int = 2
    """ray: CPUs per share; also its number of worker processes unless num_workers is set."""


@dataclass(frozen=True, kw_only=True)
class DataPrepConfig:
    """All settings of a data preparation."""

    output_dir: PathText
    """Directory for the shards, tokenizer, documents and ledger."""
    sources: list[SourceConfig]
    """Raw inputs, read in this order."""
    html: HtmlConfig = field(default_factory=HtmlConfig)
    """Text extraction from web pages."""
    wikipedia: WikipediaConfig = field(default_factory=WikipediaConfig)
    """Text extraction from wikitext."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    """Language identification."""
    url_filter: UrlFilterConfig = field(default_factory=UrlFilterConfig)
    """Dropping by URL."""
    lines: LineConfig = field(default_factory=LineConfig)
    """Removing lines."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Quality filtering."""
    personal_data: PersonalDataConfig = field(default_factory=PersonalDataConfig)
    """PII masking."""
    custom_filters: list[dict[str, Any]] = field(default_factory=list, metadata={FORMER_NAMES: ("further_steps",)})
    """Your own filters, run after all others: {_target_: package.module.Class, ...arguments}. See
    docs/data/filtering.md."""
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    """Size limits and exact deduplication."""
    near_duplicates: NearDuplicatesConfig = field(default_factory=NearDuplicatesConfig)
    """Fuzzy deduplication (MinHash)."""
    line_duplicates: LineDuplicatesConfig = field(default_factory=LineDuplicatesConfig)
    """Line deduplication."""
    evaluations: list[SourceConfig] = field(default_factory=list)
    """Benchmark texts for decontamination: questions and answers, of kind jsonl, parquet or text. To use two fields of
    a file, list it twice with different text_field."""
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    """Decontamination."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Split into training and validation."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer."""
    batch_bytes: int = 512 << 10
    """Raw bytes per batch sent to a worker process. Smaller batches balance small inputs better."""
    num_workers: int | None = None
    """Worker processes; null uses one per CPU. The output does not depend on it."""
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """Execution on this machine or a cluster."""
    strict: bool = False
    """Stop with exit code 2 at the first record that cannot be read, instead of counting it and continuing."""
    overwrite: bool = False
    """Replace a different finished preparation in output_dir."""
    progress: Literal["auto", "on", "off"] = "auto"
    """Progress bars; auto draws bars on a terminal and prints plain lines elsewhere."""


@dataclass(frozen=True, kw_only=True)
class DataPrepRoot:
    """The root of conf/data_prep.yaml."""

    data_prep: DataPrepConfig
    """The preparation."""


ROOT = ConfigRoot(name="data_prep", schema=DataPrepRoot)
BYTE_PIECES = 256
CONTROL_PIECES = 3
"""Unknown, begin and end of a document."""
MIN_VOCAB_SIZE = BYTE_PIECES + CONTROL_PIECES + 1
LARGEST_AUTO_VOCAB_SIZE = 32_000
"""The vocabulary size of vocab_size=auto, if the text yields as many pieces."""


def list_special_tokens(config: TokenizerConfig) -> list[str]:
    """List all special tokens of a tokenizer to train: the configured ones, then the reserved ones."""
    return [*config.special_tokens, *(f"<|reserved_{number}|>" for number in range(config.num_reserved_tokens))]
