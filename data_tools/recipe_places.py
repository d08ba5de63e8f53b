"""Write sentences with tagged cities and countries, made from lists of names and sentence frames.

They are synthetic: no small package with freely licensed, tagged text was found. Names are those of the time zone
database (public domain). Held-out sentences have other names and other frames than those to train on, so that a tagger
cannot know either by heart.
"""

import random
import re
import zipfile
from pathlib import Path
from typing import Any

_TABLES = "tzdata/zoneinfo"
_CONTINENTS = ("Africa/", "America/", "Asia/", "Australia/", "Europe/")
SHARE_HELD_OUT = 0.25

FRAMES = (
    "The train from {city} to {city} was two hours late.",
    "Maria moved from {city} to {country} when she was nine.",
    "It has not rained in {city} since Monday.",
    "The minister of {country} will visit {country} next week.",
    "Prices in {country} rose faster than in {country} last year.",
    "We spent three days in {city}, the nicest place in {country}.",
    "Nobody at the office had ever heard of {city}.",
    "The ship left {city} on Friday with coffee for {country}.",
    "{city} is the largest city of {country}.",
    "{country} and {country} signed a treaty in {city}.",
    "My brother teaches mathematics at a school in {city}.",
    "Her passport was issued in {country}, but she was born in {city}.",
    "The museum in {city} opens at ten.",
    "After the storm, flights to {city} and {city} were cancelled.",
    "He wrote his first novel in {city} and his last one in {country}.",
    "The football team of {country} lost to {country} on Sunday.",
    "Farmers in {country} expect a good harvest.",
    "Anna met Peter at a conference in {city}.",
    "The road between {city} and {city} is closed in winter.",
    "The company has factories in {country}, {country} and {country}.",
    "Call me when you get to {city}.",
    "A professor from {city} explained the elections in {country}.",
    "The old bridge was the pride of the town.",
    "Tom forgot his umbrella on the bus again.",
    "On Tuesday the committee will discuss the budget.",
    "{country} exports copper and wool.",
    "They drove from {city} through the desert to {city}.",
    "I would like a ticket to {city}, please.",
    "The river rises in {country} and flows through {city}.",
    "Most students from {country} go home in July.",
)
HELD_OUT_FRAMES = (
    "Doctor Miller worked in {city} before he came to {country}.",
    "The concert in {city} was sold out within an hour.",
    "{country} has closed its border with {country}.",
    "The package went from {city} to {city} by mistake.",
    "Ships from {country} may not enter the harbor of {city}.",
    "She learned to cook in {city}.",
    "The lawyer asked for a second opinion.",
    "According to the report, {country} needs more teachers.",
    "We crossed {country} by bicycle and took a boat to {city}.",
    "On Thursday Laura will fly to {city}.",
)


def read_places(wheel: Path) -> dict[str, list[str]]:
    """Read the names of cities and countries in the time zone database: {"city": [...], "country": [...]}, sorted."""
    with zipfile.ZipFile(wheel) as archive:
        countries = archive.read(f"{_TABLES}/iso3166.tab").decode("utf-8").splitlines()
        zones = archive.read(f"{_TABLES}/zone.tab").decode("utf-8").splitlines()
    names = {line.split("\t")[1] for line in countries if not line.startswith("#")}
    places = {line.split("\t")[2] for line in zones if not line.startswith("#")}
    # Zones of oceans are islands; America/Indiana/Knox and the like are parts of a state.
    cities = {place.partition("/")[2].replace("_", " ") for place in places if place.startswith(_CONTINENTS)}
    usable = re.compile(r"[A-Z][a-z]+(?:[ -][A-Z][a-z]+)*")  # no "St Martin (Dutch)", no "US minor outlying islands"
    names = {name for name in names if usable.fullmatch(name)}
    cities = {name for name in cities - names if usable.fullmatch(name)}
    return {"city": sorted(cities), "country": sorted(names)}


def write_sentences(
    places: dict[str, list[str]], *, num_train: int, num_validation: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Put names into frames.

    Returns:
        Sentences to train on and held-out ones: {"tokens": words, "tags": BIO tags of CITY and COUNTRY}, all different.
    """
    choice = random.Random(seed)
    parts: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for kind, names in places.items():
        mixed = choice.sample(names, len(names))
        size = round(len(names) * SHARE_HELD_OUT)
        parts[0][kind], parts[1][kind] = mixed[size:], mixed[:size]
    return (
        _fill(FRAMES, parts[0], num_sentences=num_train, choice=choice),
        _fill(HELD_OUT_FRAMES, parts[1], num_sentences=num_validation, choice=choice),
    )


def _fill(
    frames: tuple[str, ...], places: dict[str, list[str]], *, num_sentences: int, choice: random.Random
) -> list[dict[str, Any]]:
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    while len(found) < num_sentences:
        tokens: list[str] = []
        tags: list[str] = []
        for part in re.findall(r"\{\w+\}|\w+|[.,]", choice.choice(frames)):
            kind = part.strip("{}") if part[0] == "{" else None
            words = choice.choice(places[kind]).split() if kind else [part]
            tokens += words
            tags += [f"{'B' if i == 0 else 'I'}-{kind.upper()}" if kind else "O" for i in range(len(words))]
        found.setdefault(tuple(tokens), {"tokens": tokens, "tags": tags})
    return list(found.values())
