"""The data card: Hugging Face front matter, then the headings of "Datasheets for Datasets".

What the pipeline measured is filled in. What only a person can answer says "unanswered" until one does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

UNANSWERED = "unanswered"

_QUESTIONS = {
    "Motivation": ["For what purpose was the data set made, by whom, and who paid for it?"],
    "Composition": [
        "Does it hold people, or anything that identifies them?",
        "Does it hold offensive or unsafe content?",
        "Under which licence is it given, and what rights do the owners of the images keep?",
    ],
    "Collection": ["Were the people concerned told, and did they agree?"],
    "Uses": ["Which uses are intended, and which are not?"],
    "Maintenance": ["Who maintains it, and where does a request for takedown go?"],
}

# what the metadata member holds: a reader that guesses from the first samples takes an empty list for one of nothing
_METADATA = """\
  - name: json
    struct:
    - {name: image_id, dtype: string}
    - {name: urls, list: string}
    - {name: pages, list: string}
    - {name: paths, list: string}
    - {name: rights, list: string}
    - {name: width, dtype: int64}
    - {name: height, dtype: int64}
    - {name: set, dtype: string}
    - {name: method, dtype: string}
    - {name: blurred, list: {list: int64}}
  - {name: __key__, dtype: string}
  - {name: __url__, dtype: string}"""

_TEMPLATE = """\
---
pretty_name: {name}
configs:
- config_name: default
  data_files: "*.tar"
dataset_info:
  features:
{features}
---
# {name}

{images} images, {image_bytes} bytes, in {shards} WebDataset shards.
`python -m curation.release verify DIR` checks every byte; the Merkle root is `{root}`.

## What was kept at each stage
| stage | in | kept | dropped |
|---|--:|--:|---|
{funnel}

## What selected the images
{composition}

An image's presence in a crawl grants no rights to it.

## People and unsafe content
{safety}

{questions}
"""


def card(
    name: str,
    images: int,
    image_bytes: int,
    num_shards: int,
    extensions: Sequence[str],
    root: str,
    funnel: Mapping[str, tuple[int, int, Mapping[str, int]]],
    sources: Sequence[Mapping[str, Any]],
    composition: str,
    safety: str,
) -> str:
    """The text of ``README.md``.

    Args:
        name: of the data set.
        images: how many.
        image_bytes: their encoded size.
        num_shards: how many tars.
        extensions: of the images, without a dot.
        root: Merkle root, hex.
        funnel: stage to (rows in, kept, dropped by reason).
        sources: dicts with values (the source) and counts, as Arrow counts them.
        composition: a Markdown table of what each set was asked for and gave; empty where there is no record of it.
        safety: what was looked for in the images, in sentences.
    """
    rows = [
        f"| {stage} | {rows_in} | {kept} | {', '.join(f'{r} {n}' for r, n in sorted(dropped.items())) or '-'} |"
        for stage, (rows_in, kept, dropped) in funnel.items()
    ]
    by_source = sorted(((s["counts"], str(s["values"])) for s in sources), key=lambda s: (-s[0], s[1]))
    return _TEMPLATE.format(
        name=name,
        images=images,
        image_bytes=image_bytes,
        shards=num_shards,
        features="\n".join([*(f"  - {{name: {extension}, dtype: image}}" for extension in extensions), _METADATA]),
        root=root,
        funnel="\n".join(rows),
        safety=safety,
        composition=composition or _counts(by_source),
        questions="\n\n".join(
            f"## {heading}\n" + "\n".join(f"- {question} *{UNANSWERED}*" for question in questions)
            for heading, questions in _QUESTIONS.items()
        ),
    )


def _counts(by_source: Sequence[tuple[int, str]]) -> str:
    rows = (f"| {_cell(source)} | {count} |" for count, source in by_source)
    return "\n".join(["| source | images |", "|---|--:|", *rows])


def _cell(text: str) -> str:
    return "".join(c for c in text if c.isprintable()).replace("|", "\\|")
