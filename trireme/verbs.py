"""List the verbs of the command `trireme` by task: each is a module's `main`."""

from typing import NamedTuple


class Verb(NamedTuple):
    """Describe a verb and the module that implements it."""

    name: str
    module: str
    """Has `main() -> int`, or a `__main__` that does."""
    help: str
    takes_overrides: str = ""
    """Name of the configuration in conf/ whose groups and fields it takes; empty where it takes none."""

    @property
    def command(self) -> str:
        """Return the equivalent `python -m` command."""
        return f"python -m {self.module.removesuffix('.__main__')}"


TASKS: dict[str, tuple[Verb, ...]] = {
    "Prepare data": (
        Verb("prepare", "data_tools.prepare", "turn raw files into token shards", "data_prep"),
        Verb("prepare-examples", "data_tools.prepare_examples", "turn examples for fine-tuning into rows with labels"),
        Verb("crawl", "data_tools.crawl.__main__", "crawl a site into a WARC file"),
        Verb("inspect", "data_tools.inspect", "print documents and statistics of a token shard"),
        Verb("merge", "data_tools.merge", "merge token shards into one"),
        Verb("contamination", "data_tools.contamination", "report which evaluation texts occur in token shards"),
        Verb("data-report", "data_tools.report.__main__", "rebuild the HTML report of a preparation"),
        Verb("export-shard", "data_tools.export_shard", "convert a token shard to another framework's format"),
        Verb("export-tokenizer", "data_tools.export_tokenizer", "export a tokenizer for Hugging Face transformers"),
        Verb("tokenizer-report", "data_tools.tokenizer_report", "compare tokenizers: tokens per language"),
    ),
    "Plan and launch": (
        Verb("plan", "launch.plan.__main__", "predict memory and throughput, find the fastest layouts", "train"),
        Verb("preflight", "launch.preflight.__main__", "check everything before a job is queued", "train"),
        Verb("local", "launch.local", "train on this host: starts torchrun with all processes", "train"),
        Verb("slurm", "launch.slurm.__main__", "submit to Slurm, show status and logs, stop", "train"),
        Verb("kubernetes", "launch.kubernetes", "write a manifest for Kubeflow's Training Operator", "train"),
    ),
    "Train": (
        Verb("finetune", "launch.finetune", "fine-tune a model on examples, on this host", "train"),
        Verb("distill", "launch.distill", "train a model on a teacher's probabilities, on this host", "train"),
        Verb("train", "trainer.train", "one rank of a training run, under torchrun", "train"),
        Verb(
            "lineage", "trainer.lineage", "show which documents a step was trained on, or which steps read a document"
        ),
        Verb("certify", "trainer.certify", "verify that parallel layouts match a single process", "certify"),
        Verb("hardware-check", "trainer.hardware_check", "benchmark every device and link of a job"),
    ),
    "Use a model": (
        Verb("import-hf", "trainer.import_hf", "import a model of Hugging Face transformers or a GGUF file"),
        Verb("export-hf", "trainer.export_hf", "export a checkpoint for Hugging Face transformers"),
        Verb("merge-adapter", "trainer.merge_adapter", "add adapters (LoRA) to the weights of their base"),
        Verb("quantize", "trainer.quantize", "quantize a model's weights to 8 or 4 bits, also as a GGUF file"),
        Verb("prune", "trainer.prune", "remove the layers, heads or channels of a model that matter least"),
        Verb("evaluate", "trainer.evaluate", "compute loss and perplexity of a checkpoint", "train"),
        Verb("harness", "trainer.harness", "evaluate a checkpoint on tasks of lm-evaluation-harness"),
        Verb("bias", "trainer.bias", "measure social bias of a model, with confidence intervals"),
        Verb("probe", "trainer.probe", "show tokens, attention, layers and attribution of a prompt on a page"),
        Verb("generate", "trainer.generate", "generate text from a prompt, or from a file of prompts"),
        Verb("predict", "trainer.predict", "predict classes, tags or answers with a fine-tuned model, and score them"),
        Verb("fill-mask", "trainer.fill_mask", "fill in the masks of texts with a masked language model"),
        Verb("chat", "trainer.chat", "chat with a model in the terminal"),
        Verb("serve", "trainer.serve", "serve a model over HTTP: OpenAI's API and a page to chat"),
    ),
}

VERBS: dict[str, Verb] = {verb.name: verb for verbs in TASKS.values() for verb in verbs}
