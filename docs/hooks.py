"""What the documentation site needs beyond MkDocs: tables that are made from the code, equations as MathML (no script, no network), and links that
lead out of docs/.

In a page,

    <!-- constants: module:Class -->          the fields of a configuration, with their defaults and comments
    <!-- constants: module:Class packaged --> ... and the values in the packaged weights
    <!-- table: NAME -->                      a function `_table_NAME` of this file
    <!-- help: COMMAND -->                    what `learn2splat COMMAND --help` prints
    <!-- file: PATH -->                       a Markdown file of the repository

are replaced. Links to files outside of docs/ (../examples/...) work on a forge; here they become the name of the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import io
import os
import re
from pathlib import Path

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]


def on_config(config):
    """Pages that are not in the navigation yet come last."""
    listed = str(config["nav"])
    names = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    if more := [name for name in names if f"'{name}'" not in listed]:
        config["nav"].append({"More": more})
    return config


def on_page_markdown(markdown: str, page, **_) -> str:
    markdown = re.sub(r"<!-- constants: (\S+?):(\w+)( packaged)? -->", lambda m: constants(m[1], m[2], bool(m[3])), markdown)
    markdown = re.sub(r"<!-- table: (\w+) -->", lambda m: globals()[f"_table_{m[1]}"](), markdown)
    markdown = re.sub(r"<!-- help: (\w+) -->", lambda m: f"```text\n{help_of(m[1])}\n```", markdown)
    markdown = re.sub(r"<!-- file: (\S+) -->", lambda m: (ROOT / m[1]).read_text(), markdown)
    markdown = markdown.replace("](../../../docs/", "](")  # of the model card, which lies beside the weights
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)


def on_page_content(html: str, **_) -> str:
    html = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda m: mathml(m[1], "inline"), html, flags=re.DOTALL)
    return re.sub(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', lambda m: mathml(m[1], "block"), html, flags=re.DOTALL)


def mathml(latex: str, display: str) -> str:
    for entity, letter in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        latex = latex.replace(entity, letter)
    return convert(latex.strip(), display=display)


def constants(module: str, name: str, packaged: bool = False) -> str:
    """A table of the fields of a configuration: name, default, comment."""
    cls = getattr(importlib.import_module(module), name)
    says = comments(cls)
    values = _packaged_config() if packaged else {}
    if packaged and name == "NominalConfig":
        values = values["nominal"]
    head = "| constant | value | what it is |" if not packaged else "| constant | packaged weights | default | what it is |"
    rows = [head, "|---" * head.count("|", 1) + "|"]
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING:  # a record, or the list of features: they have tables of their own
            continue
        default = _shown(field.default)
        if isinstance(field.default, tuple) and isinstance(field.default[0], str):
            continue
        cells = [f"`{field.name}`", default, says.get(field.name, "")]
        if packaged:
            cells.insert(1, _shown(values.get(field.name, "-")))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def comments(cls: type) -> dict[str, str]:
    """{field: the comment behind it}."""
    found = re.findall(r"^    (\w+): [^#\n]*(?:  # (.*))?$", inspect.getsource(cls), re.MULTILINE)
    return {name: comment.replace("|", "\\|") for name, comment in found if comment}


def help_of(command: str) -> str:
    from learn2splat.cli import main

    printed = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "110"
    try:
        with contextlib.redirect_stdout(printed):
            main([command, "--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return printed.getvalue().strip()


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " to ".join(map(_shown, value)) if len(value) == 2 else ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _packaged_config() -> dict:
    from learn2splat.optimizers.weights import packaged_weights, weights_info

    return weights_info(packaged_weights())["config"]


def _table_optimizers() -> str:
    from learn2splat.optimizers import OPTIMIZERS

    return "\n".join(["| name | what it is |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in OPTIMIZERS.items())])


def _table_features() -> str:
    """What the network reads, in order, with the comments of the source."""
    from learn2splat.optimizers import _features

    source = inspect.getsource(_features)
    says = dict(re.findall(r'^    "(\w+)": [^,]+,  # (.*)$', source[source.index("\nFEATURES") :], re.MULTILINE))
    read = _packaged_config()["features"]
    rows = [
        f"| `{name}` | {width} | {says.get(name, '')} | {'yes' if name in read else 'no'} | {'yes' if name in _features.MAGNITUDE_FEATURES else ''} |"
        for name, width in _features.FEATURES.items()
    ]
    return "\n".join(["| feature | numbers | what it is | network | magnitude path |", "|---|---:|---|---|---|", *rows])


def _table_terms() -> str:
    from learn2splat.optimizers import anchored

    source = inspect.getsource(anchored)
    says = dict(re.findall(r'^    "(\w+)": .*?,  # (.*)$', source[source.index("\nTERMS") :], re.MULTILINE))
    rows = [f"| `{name}` | {', '.join(groups)} | {says.get(name, '')} |" for name, groups in anchored.TERMS.items()]
    return "\n".join(["| basis | groups with a coefficient for it | |", "|---|---|---|", *rows])
