"""Hooks of the site's build: links that leave the documentation, and pages from elsewhere.

A page of docs/ may link any file of the repository, as it does on a code host. The site
has no file outside docs/: such a link becomes a link to the code host, if `repo_url` is
set in mkdocs.yml, and its text alone otherwise. A link whose text is the name of a page's
file has the page's title in its place. A link to nothing is a warning, and with `--strict`
an error; so is a script, style sheet, font or picture of another host.
"""

import logging
import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = {"CHANGELOG.md": "changelog.md"}
"""Files of the repository outside docs/ that are pages, and their names on the site."""
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]\[]*)\]\((?P<target>[^)\s]+)\)")
FILE_NAME = re.compile(r"[\w./]+\.md")
CODE = re.compile(r"^(?P<fence>```+).*?^(?P=fence)|`[^`\n]+`", re.M | re.S)
OTHER_HOST = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?(?:https?:)?//"
    r"|<link[^>]*\srel=[\"']?(?:stylesheet|preload|preconnect|icon)[^>]*\shref=[\"']?"
    r"(?:https?:)?//"
)
log = logging.getLogger("mkdocs.hooks.site")


def on_files(files, config):
    """Adds the pages that lie outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links of one page as the site needs them."""
    here = page.file.src_uri
    original = {page_: source for source, page_ in PAGES.items()}.get(here)
    return site_links(markdown, original or f"docs/{here}", here, config.repo_url)


def on_post_page(output, page, config):
    """Warns of what a page would load from another host."""
    for found in OTHER_HOST.finditer(output):
        log.warning("%s loads from another host: %s", page.file.src_uri, found[0])
    return output


def site_links(markdown: str, source: str, page: str, repo_url: str | None) -> str:
    """The text of a page, its links to files of the repository made for the site.

    Args:
      markdown: the text.
      source: the path of its file in the repository.
      page: its path on the site, such as ``"results/methods.md"``.
      repo_url: the address of the repository on a code host, or None.
    """
    code = [found.span() for found in CODE.finditer(markdown)]

    def replaced(link: re.Match) -> str:
        if any(start <= link.start() < end for start, end in code):
            return link[0]
        target, _, anchor = link["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / path).exists():
            log.warning("%s links %s, which does not exist", source, target)
            return link[0]
        on_site = PAGES.get(path, path.removeprefix("docs/"))
        if path in PAGES or path.startswith("docs/"):
            relative = posixpath.relpath(on_site, posixpath.dirname(page) or ".")
            anchor = f"#{anchor}" if anchor else ""
            text = link["text"]
            if FILE_NAME.fullmatch(text):
                text = title_of(ROOT / path)
            return f"{link['image']}[{text}]({relative}{anchor})"
        if repo_url:
            address = f"{repo_url.rstrip('/')}/blob/main/{path}"
            return f"{link['image']}[{link['text']}]({address})"
        return link["text"]

    return LINK.sub(replaced, markdown)


def title_of(page: pathlib.Path) -> str:
    """The first heading of a page, or the name of its file."""
    found = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.M)
    return found[1] if found else page.name
