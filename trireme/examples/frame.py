"""Put a model's special tokens around one text or two, such as [CLS] a [SEP] b [SEP], with the types of the tokens."""

from collections.abc import Sequence

import numpy as np

from trireme.examples.document import EncodedDocument, ExampleRefusal, Truncation
from trireme.shards.examples import NO_LABEL
from trireme.tokenizer.backends import FramePart
from trireme.tokenizer.tokenizer import Tokenizer


class Frame:
    """Hold the special tokens around one text or two.

    The tokenizer.json of an encoder defines them. A decoder's puts at most bos_token first: then eos_token is added at
    the end, and a line break between two texts.

    Args:
        num_texts: 1 or 2.
    """

    def __init__(self, tokenizer: Tokenizer, *, num_texts: int) -> None:
        parts = list(tokenizer.read_frame(num_texts))
        places = [place for place, part in enumerate(parts) if part.text is not None]
        last_type = parts[-1].token_type
        is_separated = num_texts == 2 and places[1] > places[0] + 1
        self.adds_eos = places[-1] == len(parts) - 1 and tokenizer.eos_id is not None
        if self.adds_eos:
            parts.append(FramePart(None, tokenizer.eos_id, last_type))
        if num_texts == 2 and not is_separated:
            kind = parts[places[0]].token_type
            parts[places[1] : places[1]] = [FramePart(None, token, kind) for token in tokenizer.encode("\n")]
        self._parts = tuple(parts)
        self.num_special = sum(part.text is None for part in parts)
        """Tokens besides those of the texts."""
        # The library's default for two texts without special tokens has types too; no model was trained with those.
        self.has_token_types = is_separated and any(part.token_type for part in parts)

    def assemble(self, texts: Sequence[Sequence[int]]) -> tuple[EncodedDocument, tuple[int, ...]]:
        """Put the frame around the ids of texts.

        Returns:
            The document, without labels, and the position of each text's first token in it.
        """
        tokens: list[int] = []
        types: list[int] = []
        begins = [0] * len(texts)
        for part in self._parts:
            if part.text is None:
                assert part.token is not None, "a part of a frame is a text or a token"
                tokens.append(part.token)
                types.append(part.token_type)
            else:
                begins[part.text] = len(tokens)
                tokens += texts[part.text]
                types += [part.token_type] * len(texts[part.text])
        document = EncodedDocument(
            tokens=np.array(tokens, np.int32),
            labels=np.full(len(tokens), NO_LABEL, np.int64),
            token_types=np.array(types, np.uint8) if self.has_token_types else None,
        )
        return document, tuple(begins)


def cut(ids: list[int], size: int, truncation: Truncation) -> list[int]:
    """Return at most `size` ids, from the side that is kept.

    Raises:
        ExampleRefusal: there are more, and truncation is `drop`.
    """
    if len(ids) <= size:
        return ids
    if truncation == "drop":
        raise ExampleRefusal("too_long", f"{len(ids)} tokens of text, a row has room for {size}")
    return ids[:size] if truncation == "right" else ids[len(ids) - size :]
