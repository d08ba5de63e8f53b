"""Prose in languages that are easily lost: pieces of the Universal Declaration of Human Rights.

Translations that the Office of the High Commissioner for Human Rights publishes, https://www.ohchr.org/en/udhr.
"""

import json
from pathlib import Path

DECLARATION: dict[str, str] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
"""Code of a language -> some articles."""
