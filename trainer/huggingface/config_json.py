"""Read a config.json key by key, so that no key that changes what a model computes goes unnoticed."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from trireme.errors import ConfigError, Violation

CONFIG_NAME = "config.json"

WITHOUT_EFFECT = frozenset(
    {
        # What the file is, and who wrote it.
        "model_type", "architectures", "_name_or_path", "transformers_version", "torch_dtype", "dtype", "name_or_path",
        "unsloth_version", "unsloth_fixed", "transformers.js_config", "is_llama_config", "_commit_hash",
        # Token ids, and defaults of generation.
        "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "use_cache",
        "cache_implementation", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id",
        "forced_eos_token_id", "max_length", "min_length", "do_sample", "num_beams", "num_beam_groups", "temperature",
        "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "remove_invalid_values",
        "return_dict_in_generate", "exponential_decay_length_penalty", "early_stopping", "diversity_penalty",
        "prefix", "task_specific_params",
        # Training: initial values, dropout, losses.
        "initializer_range", "attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout",
        "output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "aux_loss_alpha", "seq_aux",
        "pretraining_tp", "ep_size",
        # Heads of other tasks, and outputs on request.
        "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "summary_type", "summary_use_proj",
        "summary_activation", "summary_proj_to_labels", "summary_first_dropout", "classifier_dropout",
        "output_attentions", "output_hidden_states", "output_scores", "return_dict", "use_return_dict",
        "_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "torchscript",
        "use_bfloat16", "tf_legacy_loss", "keys_to_ignore_at_inference", "is_decoder", "is_encoder_decoder",
        "tie_encoder_decoder", "add_cross_attention", "chunk_size_feed_forward", "cross_attention_hidden_size",
        "pruned_heads", "tokenizer_class", "n_ctx", "output_past", "eos_token_ids",
    }
)  # fmt: skip
"""Keys of many families that do not change the logits of a causal model."""

_FIX = "This model cannot be represented. Use another one, or remove the key if you know that it has no effect."
INVALID_FIX = "Correct the file, or give another model."

MAX_INTEGER = 2**31 - 1
"""Largest number of a config.json; sizes of tensors beyond it are mistakes."""
MAX_LAYERS = 10_000


def read_config_json(directory: Path) -> dict[str, Any]:
    """Read the config.json of a model.

    Raises:
        ConfigError: it is missing or not a JSON object.
    """
    path = directory / CONFIG_NAME
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it must be a JSON object")
    except FileNotFoundError:
        message, fix = "contains no config.json", "Give the directory of a model of Hugging Face transformers."
        raise ConfigError([Violation(path="SOURCE", value=directory, message=message, fix=fix)]) from None
    except (OSError, ValueError, RecursionError) as error:
        fix = "Download the file again."
        raise ConfigError([Violation(path=str(path), value="", message=f"is damaged: {error}", fix=fix)]) from error
    return content


class ConfigReader:
    """Take values out of a config.json, and collect everything that cannot be represented.

    Args:
        content: of the file, or of an object in it.
        prefix: of its keys in messages.
    """

    def __init__(self, content: Mapping[str, Any], *, prefix: str = f"{CONFIG_NAME}: ") -> None:
        self._content = content
        self._prefix = prefix
        self._known: set[str] = set(WITHOUT_EFFECT)
        self.violations: list[Violation] = []
        self.warnings: list[str] = []
        """What the user should know of values that are taken."""

    def has(self, key: str) -> bool:
        """Return whether the key is there with another value than null."""
        return self._content.get(key) is not None

    def count(self, key: str, default: int | None = None, *, maximum: int = MAX_INTEGER) -> int:
        """Take a whole number from 1 on; without a default the key is required. A refused one counts as 1."""
        value = self._number(key, default, minimum=1, maximum=maximum, is_integer=True)
        return 1 if value is None else int(value)

    def integer(self, key: str, default: int | None = None) -> int:
        """Take a whole number from 0 on; without a default the key is required. A refused one counts as 0."""
        return int(self._number(key, default, minimum=0, maximum=MAX_INTEGER, is_integer=True) or 0)

    def optional_count(self, key: str, default: int | None = None) -> int | None:
        """Take a whole number from 1 on that may be null."""
        self._known.add(key)
        value = self._content.get(key, default)
        return None if value is None else self.count(key, default)

    def optional_integer(self, key: str, default: int | None = None) -> int | None:
        """Take a whole number from 0 on that may be null."""
        self._known.add(key)
        value = self._content.get(key, default)
        return None if value is None else self.integer(key, default)

    def number(self, key: str, default: float | None = None) -> float:
        """Take a finite number; without a default the key is required. A refused one counts as 1."""
        value = self._number(key, default, minimum=-math.inf, maximum=math.inf, is_integer=False)
        return 1.0 if value is None else float(value)

    def positive(self, key: str, default: float | None = None) -> float:
        """Take a finite number above 0, as `number` does."""
        value = self.number(key, default)
        if value <= 0:
            self._reject(key, self._content.get(key), "must be greater than 0")
            return 1.0
        return value

    def optional_number(self, key: str, default: float | None = None) -> float | None:
        """Take a finite number that may be null."""
        self._known.add(key)
        value = self._content.get(key, default)
        return None if value is None else self.number(key, default)

    def dropout(self, key: str, default: float) -> float:
        """Take a probability below 1, of what training drops; null is the default. A refused one counts as 0."""
        self._known.add(key)
        if not self.has(key):
            return default
        value = self.number(key)
        if not 0 <= value < 1:
            self._reject(key, self._content.get(key), "must be at least 0 and less than 1")
            return 0.0
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """Take true or false; null is false."""
        self._known.add(key)
        value = self._content.get(key, default)
        if value is None:
            return False
        if not isinstance(value, bool):
            self._reject(key, value, "must be true or false")
            return default
        return value

    def choice(self, key: str, choices: Mapping[str, str], default: str) -> str:
        """Take one of several words, and return what it stands for here."""
        self._known.add(key)
        value = self._content.get(key, default)
        if not isinstance(value, str) or value not in choices:
            self._refuse(key, value, f"must be {' or '.join(choices)}")
            return choices[default]
        return choices[value]

    def words(self, key: str, choices: Collection[str], *, length: int) -> list[str] | None:
        """Take a list of so many words, or null."""
        self._known.add(key)
        value = self._content.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or any(word not in choices for word in value):
            self._reject(key, value, f"must be a list of {', '.join(choices)}")
            return None
        if len(value) != length:
            self._reject(key, value, f"must have {length} entries, one for each layer")
            return None
        return list(value)

    def labels(self) -> list[str]:
        """Take the names of the classes, in the order of their numbers; two, as transformers does, without any."""
        names, count = self._content.get("id2label"), self.optional_integer("num_labels")
        if names is None or (isinstance(names, dict) and count not in (None, len(names))):
            return [f"LABEL_{number}" for number in range(2 if count is None else count)]
        if not isinstance(names, dict) or {str(key) for key in names} != {str(key) for key in range(len(names))}:
            self._refuse("id2label", names, "must be an object whose keys are the numbers from 0")
            return []
        return [str(names.get(str(number), names.get(number))) for number in range(len(names))]

    def integers(self, key: str) -> list[int]:
        """Take a list of whole numbers; null is an empty one."""
        self._known.add(key)
        value = self._content.get(key) or []
        if not isinstance(value, list) or any(not isinstance(item, int) or isinstance(item, bool) for item in value):
            self._reject(key, value, "must be a list of integers")
            return []
        return list(value)

    def group(self, key: str) -> "ConfigReader | None":
        """Take an object, or null; its violations and unknown keys are collected here by `close_group`."""
        self._known.add(key)
        value = self._content.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self._reject(key, value, "must be an object")
            return None
        child = ConfigReader(value, prefix=f"{self._prefix}{key}.")
        child._known = set()
        return child

    def close_group(self, child: "ConfigReader") -> None:
        """Add what a child has found."""
        self.violations += child.finish()

    def must_be(self, key: str, value: Any, *, reason: str) -> None:
        """Refuse any value of a key but one, which is also its default."""
        self._known.add(key)
        found = self._content.get(key, value)
        if found != value and not (value is False and found is None):
            self._refuse(key, found, f"must be {json.dumps(value)}: {reason}")

    def ignore(self, *keys: str) -> None:
        """Accept keys that have no effect in this family."""
        self._known.update(keys)

    def warn(self, message: str) -> None:
        """Keep a clause for `warnings`."""
        self.warnings.append(f"{self._prefix}{message}")

    def refuse(self, key: str, message: str) -> None:
        """Refuse the value of a key."""
        self._known.add(key)
        self._refuse(key, self._content.get(key), message)

    def check_token_ids(self) -> None:
        """Refuse ids of special tokens that are no ids: export, chat and server use them."""
        for key, may_be_list in (("bos_token_id", False), ("eos_token_id", True), ("pad_token_id", False)):
            value = self._content.get(key)
            ids = value if isinstance(value, list) and may_be_list else [value]
            # Llama 1 has no padding and says -1.
            lowest = -1 if key == "pad_token_id" else 0
            if value is not None and not all(
                isinstance(one, int) and not isinstance(one, bool) and lowest <= one <= MAX_INTEGER for one in ids
            ):
                self._reject(key, value, f"must be {'an id or a list of ids' if may_be_list else 'an id'}")

    def finish(self) -> list[Violation]:
        """Return everything that cannot be represented, with the unknown keys that are set to something."""
        unknown = {key: value for key, value in self._content.items() if key not in self._known}
        for key, value in unknown.items():
            if key == "auto_map":
                self._refuse(key, value, "names Python code that comes with the model, which is never run")
            elif key == "quantization_config" and value is not None:
                self._refuse(key, value, "says that the weights are quantized; give the model's 16-bit version")
            elif value not in (None, False, [], {}, ""):
                self._refuse(key, value, "is unknown here, so what it changes would be lost")
        self._known.update(unknown)
        return self.violations

    def _number(
        self, key: str, default: float | None, *, minimum: float, maximum: float, is_integer: bool
    ) -> float | None:
        self._known.add(key)
        value = self._content.get(key)
        if value is None:
            if default is None:
                self._reject(key, value, "is missing")
            return default
        kinds = (int,) if is_integer else (int, float)
        if isinstance(value, float) and is_integer and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, kinds):
            self._reject(key, value, f"must be {'an integer' if is_integer else 'a number'}")
            return default
        if isinstance(value, float) and not math.isfinite(value):
            self._reject(key, value, "must be finite")
            return default
        if not minimum <= value <= maximum:
            self._reject(key, value, f"must be at least {minimum}" if value < minimum else f"must be at most {maximum}")
            return default
        return value

    def _reject(self, key: str, value: Any, message: str) -> None:
        """Report a value that no model may have."""
        self._refuse(key, value, message, fix=INVALID_FIX)

    def _refuse(self, key: str, value: Any, message: str, *, fix: str = _FIX) -> None:
        written = json.dumps(value)
        shown = written if len(written) <= 80 else written[:77] + "..."
        self.violations.append(Violation(path=self._prefix + key, value=shown, message=message, fix=fix))
