"""What the site has beside the pages of docs/: reference pages, sources, mathematics, a check.

Pages are plain Markdown that a code host shows too. On the way to the site

- `messages.md` lists what is said about arguments, read from the code (`messages.py`);
- tables of `api.md` get one reference page for each public module, made from the docstrings;
- links to files outside of docs/ lead to copies of them in the site, functions highlighted;
- what stands between `<!-- include FILE "Heading" -->` and `<!-- end -->` becomes that section;
- `$...$` and `$$...$$` become MathML, with `\\tag{3}` as a number to link to (`#eq-3`);
- and a build whose pages would load anything from another host fails.
"""

import ast
import html
import importlib.util
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parents[2]
# Files outside of docs/ that have a page of their own in the site.
PAGES = {
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changes.md",
}
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
INCLUDE = re.compile(r'<!-- include (\S+) "([^"]+)" -->.*?<!-- end -->', re.DOTALL)
LOADED = re.compile(r"<(?:script|img|iframe|source|video|audio)\b[^>]*?\bsrc=[\"']?([^\"'\s>]+)")
STYLED = re.compile(r"<link\b[^>]*?\bhref=[\"']?([^\"'\s>]+)")


def sections_of_api() -> dict[str, list[str]]:
    """Names of every public module, in the order of `docs/api.md`."""
    found: dict[str, list[str]] = {}
    for part in (ROOT / "docs" / "api.md").read_text().split("\n## ")[1:]:
        found[part.splitlines()[0].strip()] = re.findall(r"^\| `(\w+)`", part, flags=re.MULTILINE)
    return found


def on_config(config):
    """Add to the navigation the concept pages that it does not name."""
    for entry in config["nav"]:
        if "Concepts" in entry:
            there = sorted(p.name for p in (ROOT / "docs" / "concepts").glob("*.md"))
            entry["Concepts"] += [
                f"concepts/{name}" for name in there if f"concepts/{name}" not in entry["Concepts"]
            ]
        if "Public names" in entry:
            pages = [{module: f"reference/{module}.md"} for module in sections_of_api()]
            entry["Public names"] = ["api.md", *pages]
    return config


def on_files(files, config):
    """Reference pages, the changelog, and the source files that pages link to."""
    modules = sections_of_api()
    for module, names in modules.items():
        text = f"# {module}\n\n::: {module}\n    options:\n      members: []\n"
        text += "      show_root_heading: false\n      show_root_toc_entry: false\n"
        text += "      show_bases: false\n      show_source: false\n"
        for name in names:
            if f"{module}.{name}" in modules:
                page = f"{module}.{name}.md"
                text += f"\n## {name}\n\nA module of its own: [{module}.{name}]({page}).\n"
            else:
                text += f"\n::: {module}.{name}\n"
        files.append(File.generated(config, f"reference/{module}.md", content=text))
    files.append(File.generated(config, "messages.md", content=_messages()))
    changes = (ROOT / "CHANGELOG.md").read_text()
    files.append(File.generated(config, "changes.md", content=changes))
    for path in sorted(_linked_sources()):
        page = File.generated(
            config,
            f"source/{path}.md",
            content=_source_page(path),
            inclusion=InclusionLevel.NOT_IN_NAV,
        )
        files.append(page)
    return files


def _messages() -> str:
    path = Path(__file__).with_name("messages.py")
    spec = importlib.util.spec_from_file_location("messages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def _linked_sources() -> set[str]:
    """Files outside of docs/, from the root, that a page links to."""
    found = set()
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in PAGES)]
    for page in pages:
        for _, target, _ in LINK.findall(page.read_text()):
            path = _from_root(page.relative_to(ROOT).as_posix(), target.split("#")[0])
            if path and not path.startswith("docs/") and path not in PAGES:
                found.add(path)
    return found


def _from_root(page: str, target: str) -> str | None:
    """The path from the root of what a relative link of a page (from the root) leads to."""
    if not target or "://" in target or target.startswith(("mailto:", "#")):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def _source_page(path: str) -> str:
    """A file of code as a page, with a heading for every function and class of it."""
    source = ROOT / path
    if not source.is_file():
        raise PluginError(f"a page links to {path}, which does not exist")
    text = source.read_text()
    if source.suffix != ".py":
        return f"# {path}\n\n````text\n{text}````\n"
    lines, parts, last = text.splitlines(), [f"# {path}\n"], 0
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        start = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        parts.append(_code(lines, last, start))
        parts.append(f"\n## {node.name} {{ #{node.name} }}\n")
        last = start
    return "\n".join([*parts, _code(lines, last, len(lines))])


def _code(lines: list[str], start: int, stop: int) -> str:
    while start < stop and not lines[start].strip():
        start += 1
    code = "\n".join(lines[start:stop]).rstrip()
    return f'````python linenums="{start + 1}"\n{code}\n````\n' if code else ""


def on_page_markdown(markdown, page, config, files):
    """Includes, and links that leave docs/."""
    here = f"docs/{page.file.src_uri}"
    if page.file.src_uri == "changes.md":
        here = "CHANGELOG.md"
    if page.file.src_uri.startswith(("reference/", "source/")):
        return markdown
    markdown = INCLUDE.sub(lambda found: _included(here, *found.groups()), markdown)
    if page.file.src_uri == "api.md":
        markdown = _with_links_to_reference(markdown)
    return _links_inside(markdown, here, page.file.src_uri)


def _included(page: str, target: str, heading: str) -> str:
    """One section of another file, its links as seen from `page`."""
    path = _from_root(page, target)
    text = (ROOT / path).read_text()
    if f"\n## {heading}\n" not in text:
        raise PluginError(f"{page} includes '{heading}' of {path}, which has no such section")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0].strip()

    def moved(found: re.Match) -> str:
        from_root = _from_root(path, found[2])
        if from_root is None:
            return found[0]
        return found[1] + posixpath.relpath(from_root, posixpath.dirname(page)) + found[3]

    return LINK.sub(moved, section)


def _links_inside(markdown: str, here: str, src_uri: str) -> str:
    """Links to files outside of docs/ lead to their pages in the site."""

    def inside(found: re.Match) -> str:
        target, _, anchor = found[2].partition("#")
        path = _from_root(here, target)
        if path is None:
            return found[0]
        if path.startswith("docs/"):
            path = path.removeprefix("docs/")
        else:
            path = PAGES.get(path, f"source/{path}.md")
        relative = posixpath.relpath(path, posixpath.dirname(src_uri) or ".")
        return found[1] + relative + (f"#{anchor}" if anchor else "") + found[3]

    # Code is left alone: every second part is between fences.
    parts = re.split(r"(^```.*?^```[^\n]*$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(p if i % 2 else LINK.sub(inside, p) for i, p in enumerate(parts))


def _with_links_to_reference(markdown: str) -> str:
    modules = sections_of_api()

    def linked(module: str, name: str) -> str:
        if f"{module}.{name}" in modules:
            return f"| [`{name}`](reference/{module}.{name}.md) |"
        return f"| [`{name}`](reference/{module}.md#{module}.{name}) |"

    head, *parts = markdown.split("\n## ")
    for i, part in enumerate(parts):
        module = part.splitlines()[0].strip()
        names = re.compile(r"^\| `(\w+)` \|", flags=re.MULTILINE)
        parts[i] = names.sub(lambda found, module=module: linked(module, found[1]), part)
    return "\n## ".join([head, *parts])


def on_page_content(content, page, config, files):
    """Mathematics, as MathML."""
    content = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', _inline, content, flags=re.S)
    return re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', _display, content, flags=re.DOTALL
    )


def _inline(found: re.Match) -> str:
    return _mathml(html.unescape(found[1]).strip(), "inline")


def _display(found: re.Match) -> str:
    latex = html.unescape(found[1]).strip()
    tag = re.search(r"\\tag\{(\w+)\}", latex)
    latex = re.sub(r"\\tag\{\w+\}", "", latex)
    shape = "equation"
    if r"\begin{aligned}" in latex:  # which the converter does not know
        shape = "equation aligned"
        columns = 1 + max(row.count("&") for row in latex.split(r"\\"))
        latex = latex.replace(r"\begin{aligned}", rf"\begin{{array}}{{{'rl' * columns}}}")
        latex = latex.replace(r"\end{aligned}", r"\end{array}")
    math = _mathml(latex, "block")
    if tag is None:
        return f'<div class="{shape}">{math}</div>'
    number = f'<span class="number">({tag[1]})</span>'
    return f'<div class="{shape}" id="eq-{tag[1]}">{math}{number}</div>'


def _mathml(latex: str, display: str) -> str:
    math = convert(latex, display=display)
    if re.search(r"<m[ion]>(&(?:amp;)?|\\)", math.replace("&#", "#")):
        raise PluginError(f"the converter to MathML does not know all of {latex}")
    return math


def on_post_build(config):
    """Fail where a page would load something from another host."""
    for page in Path(config["site_dir"]).rglob("*.html"):
        text = page.read_text()
        for address in [*LOADED.findall(text), *STYLED.findall(text)]:
            if "://" in address or address.startswith("//"):
                raise PluginError(f"{page.name} would load {address} from another host")
    for sheet in Path(config["site_dir"]).rglob("*.css"):
        for address in re.findall(r"url\(([^)]+)\)|@import\s+[\"']([^\"']+)", sheet.read_text()):
            if any("//" in part and "data:" not in part for part in address):
                raise PluginError(f"{sheet.name} would load {address} from another host")
