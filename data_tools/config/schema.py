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
from trireme.config.path_text import PathText


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Raw input of one kind."""

    name: str
    """Name of the source in the ledger and in the document tables."""
    kind: Literal["warc", "wikipedia", "jsonl", "parquet", "text"]
    """warc: web archives (.warc, .wet, .arc, .wacz); wikipedia: a dump of pages (.xml); jsonl: one JSON object a line,
    or an array of them; parquet: one document a row; text: plain text, and web pages (.html). Compression (gzip,
    bzip2, xz, zstd) is recognised by content."""
    paths: list[PathText]
    """Files: local paths, glob patterns, folders (all files in them whose names end as the kind's do), http(s)://
    addresses, or anything else that fsspec opens. A file that ends in
    .paths or .paths.gz is a list of files, as Common Crawl has them (warc.paths.gz)."""
    text_field: str = "text"
    """jsonl, parquet: key or column of the text; one within an object is named with dots, as content.text. Of a list of
    texts each becomes a line."""
    id_field: str = "id"
    """jsonl, parquet: key or column of the document's identifier; a record without it gets none."""
    url_field: str = "url"
    """jsonl, parquet: key or column of the document's address."""
    title_field: str = "title"
    """jsonl, parquet: key or column of the document's title."""
    split_text: Literal["file", "paragraph", "line"] = "file"
    """text: what one document is: a whole file, a run of lines without a blank one, or a line."""
    keep_whitespace: bool | None = None
    """jsonl, parquet, text: keep indentation, spaces at the ends of lines, runs of blank lines, and the form of
    composed characters (no NFC), as code and Markdown need them; only control characters go, and line ends become line
    feeds. null does so for files of kind text whose name ends as that of source code (.py, .c, .md, ...)."""
    wrong_digests: Literal["note", "fail", "ignore"] = "note"
    """warc: what becomes of records whose content does not have the digest that their header names (that of the
    payload, or of the block where there are no HTTP headers). note: they are read like others, with the note
    digest_wrong in the ledger, since some writers take the digest before an encoding is undone; fail: they count as
    records that could not be read; ignore: nobody looks, which saves 0.7 ms for each MB."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """Options for fsspec, such as {anon: true} for public S3 buckets."""
    max_retries: int = 6
    """http(s): new attempts in a row, without a byte more, before a file's rest is given up. Broken connections go on
    where they broke."""
    retry_seconds: float = 1.0
    """http(s): pause before the first new attempt; each one is twice as long, up to a minute. A server's Retry-After
    comes before it."""
    skip_unreadable: bool = False
    """Begin although files that are named cannot be read (missing, forbidden, no answer): each counts as one failed
    record. false refuses to begin. A file that becomes unreadable later counts as failed either way."""


SOURCE_FIELDS_WITHOUT_EFFECT = ("storage_options", "max_retries", "retry_seconds", "skip_unreadable")
"""Fields of a source that say how its files are reached, not what is in them; storage_options may hold credentials."""


@dataclass(frozen=True, kw_only=True)
class HtmlConfig:
    """How text is taken out of web pages."""

    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"
    """trafilatura loses more text, and takes about sixteen times as long; it must be
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
    drop_sections: list[str] | None = None
    """Titles of sections that are no prose and are left out with what is below them, without regard to case. null takes
    those for references, notes, links, literature and "see also" in the language of the dump, and the English ones
    (data_tools/extract/wikitext/sections.py); [] keeps all sections."""


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
    """The tokenizer: a SentencePiece model trained on the documents, or a given one (docs/data/tokenizer.md)."""

    path: PathText | None = None
    """An existing SentencePiece .model, or a tokenizer.json of Hugging Face's tokenizers; null trains a SentencePiece
    model."""
    eos_token: str | None = None
    """The token of a given tokenizer.json that ends a document; null takes the one that the tokenizer_config.json
    beside it names, else a usual one such as </s> or <|endoftext|>."""
    model_type: Literal["unigram", "bpe"] = "unigram"
    """unigram tokenizes about 1.4 times as fast (in SentencePiece alone: five times); bpe trains about ten times as
    fast."""
    vocab_size: int | Literal["auto"] = "auto"
    """Pieces, with the 256 byte pieces and the special ones; a multiple of vocab_multiple. auto takes 32000, or as many
    as the text gives where that is less (for a very short text not a multiple)."""
    vocab_multiple: int = 128
    """The vocabulary is a multiple of this, so that tensor parallelism can divide it."""
    character_coverage: float = 0.9995
    """Share of all characters that get their own piece; the rest is written in bytes."""
    split_digits: bool = True
    """Each digit is a piece of its own, so that a number is always written in the same way; false also takes frequent
    numbers as pieces."""
    sample_characters: int = 100_000_000
    """Most characters of training documents that the tokenizer is trained on; whole documents are sampled."""
    sampling_exponent: float = 1.0
    """A language with a share s of all characters gets a share of the sample in proportion to s to this power: 1 takes
    languages as they are, 0 gives each the same; XLM-R and mT5 use 0.3. Less than 1 needs language.identify."""
    special_tokens: list[str] = field(default_factory=list)
    """Tokens that no text gives, whatever it spells, such as chat markers ["<|im_start|>", "<|im_end|>"]: programs put
    them in by their ids (SentencePiece's control symbols)."""
    user_defined_symbols: list[str] = field(default_factory=list)
    """Pieces that are never split wherever a text spells them; so anybody's text can give them."""
    num_reserved_tokens: int = 0
    """So many special tokens <|reserved_0|>, <|reserved_1|>, ... for uses that are not known yet."""
    num_threads: int = 8
    """Threads of the training. Part of the result: sums are split over them."""


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """Jobs of the executor slurm; slurm/data_prep.sbatch is their script."""

    partition: str | None = None
    """Where they run; null takes the cluster's default."""
    account: str | None = None
    """Whom they are charged to."""
    qos: str | None = None
    """Their quality of service."""
    time_limit: str = "12:00:00"
    """Of each job, as sbatch writes it; a job that runs out of it loses little: run the same command again."""
    cpus_per_task: int = 8
    """CPUs of each job, and worker processes unless num_workers says otherwise."""
    memory: str | None = None
    """Of each job, such as 32G."""
    max_array_size: int = 1000
    """More shares are submitted as several job arrays; the cluster's MaxArraySize (scontrol show config)."""
    max_running: int | None = None
    """Jobs of an array that run at a time; null sets no limit."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further options of sbatch by their long names, such as {constraint: milan}; null for one without a value."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the work, such as module load python."""
    python: PathText | None = None
    """Interpreter on the nodes; null takes the one that submits."""


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where the work is done; the output does not depend on it. On a cluster output_dir and all local inputs must lie
    on a file system that every node sees under the same path."""

    kind: Literal["local", "slurm", "ray"] = "local"
    """local: processes of this machine; slurm: job arrays; ray: tasks of an existing Ray cluster."""
    num_shares: int = 16
    """slurm, ray: parts that reading and tokenizing are each cut into; a file is read by one of them."""
    dry_run: bool = False
    """slurm: print the job scripts instead of submitting them."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """Jobs of the executor slurm."""
    ray_address: str = "auto"
    """ray: address of the cluster."""
    ray_cpus_per_share: int = 2
    """ray: CPUs that a share takes, and its worker processes unless num_workers says otherwise."""


@dataclass(frozen=True, kw_only=True)
class DataPrepConfig:
    """Everything that one data preparation is told."""

    output_dir: PathText
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
    docs/data/filtering.md."""
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    """Dropping by size and of duplicates."""
    near_duplicates: NearDuplicatesConfig = field(default_factory=NearDuplicatesConfig)
    """Dropping of near duplicates."""
    line_duplicates: LineDuplicatesConfig = field(default_factory=LineDuplicatesConfig)
    """Removing of repeated lines."""
    evaluations: list[SourceConfig] = field(default_factory=list)
    """Texts that no document may hold a piece of: evaluation questions and answers, of kind jsonl, parquet or text.
    Name a file twice, with another text_field, to use two of its fields."""
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
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    """Where the work is done."""
    strict: bool = False
    """Stop with exit code 2 at the first record that cannot be read, instead of counting it and going on."""
    overwrite: bool = False
    """Replace another finished preparation in output_dir."""
    progress: Literal["auto", "on", "off"] = "auto"
    """Progress bars; auto draws them on a terminal and writes plain lines elsewhere."""


@dataclass(frozen=True, kw_only=True)
class DataPrepRoot:
    """The root of conf/data_prep.yaml: its group."""

    data_prep: DataPrepConfig
    """The preparation."""


ROOT = ConfigRoot(name="data_prep", schema=DataPrepRoot)
BYTE_PIECES = 256
CONTROL_PIECES = 3
"""Unknown, begin and end of a document."""
MIN_VOCAB_SIZE = BYTE_PIECES + CONTROL_PIECES + 1
LARGEST_AUTO_VOCAB_SIZE = 32_000
"""What vocab_size=auto takes where the text gives so many pieces."""


def list_special_tokens(config: TokenizerConfig) -> list[str]:
    """All special tokens of a tokenizer that is trained here: those that are named, then the reserved ones."""
    return [*config.special_tokens, *(f"<|reserved_{number}|>" for number in range(config.num_reserved_tokens))]
