"""MkDocs hooks: files of the repository outside docs/ become part of the site.

Pages link to each other as they do in the repository, so their links work in a checkout too. The
site keeps that layout, with docs/ as its root.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Files to show, beside those of docs/: what its pages link to.
SHOWN = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "changelog.d/README.md",
    "run.toml.example",
    "recipes/**/*.toml",
    "recipes/README.md",
    "plugins/*/README.md",
    "plugins/*/recipes/*.toml",
)
RENAMED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that are not in docs/."""
    for pattern in SHOWN:
        for path in sorted(ROOT.glob(pattern)):
            source = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, site_path(source), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a page's links, which are relative in the repository, into links within the site."""
    assert page.file.abs_src_path is not None
    folder = Path(page.file.abs_src_path).parent.relative_to(ROOT).as_posix()
    start = posixpath.dirname(page.file.src_uri) or "."

    def within_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link["path"]))
        if (ROOT / target).is_dir():
            target += "/README.md"
        path = site_path(target)
        if files.get_file_from_path(path) is None:
            # MkDocs reports it.
            return link[0]
        return f"]({posixpath.relpath(path, start)}{link['anchor'] or ''})"

    return LINK.sub(within_site, markdown)


def site_path(source: str) -> str:
    """Return where a file of the repository stands in the site."""
    return RENAMED.get(source, source.removeprefix("docs/"))
