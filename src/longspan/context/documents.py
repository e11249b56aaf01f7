"""A file becomes text: plain text, Markdown, HTML, PDF (with the character span of each page) and Word (.docx).

What cannot be read is refused in one sentence that says what would work: missing, empty, a folder, binary, not UTF-8 (with the
encoding that fits), an encrypted or broken PDF, a PDF of scanned pages without a text layer.
"""

import bisect
import codecs
import re
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path

from longspan.context.formats import BadFormat, from_docx, from_html, from_pdf
from longspan.errors import BadInput

HTML = (".html", ".htm", ".xhtml")
MARKDOWN = (".md", ".markdown", ".mdown")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is a prefix of this one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNDERLINED = re.compile(r"^(?P<title>\S.*)\n(?P<line>\*{3,}|={3,}|-{3,})$", re.MULTILINE)


@dataclass(frozen=True)
class Document:
    """One readable text.

    pages: (start, end) character span of every page in `text`, empty for formats without pages.
    kind: "text", "markdown", "html", "pdf" or "docx".
    """

    text: str
    title: str
    pages: tuple[tuple[int, int], ...]
    kind: str

    def page_of(self, offset: int) -> int | None:
        """Return the page number (from 1) that holds the character at `offset`, or None for formats without pages."""
        if not self.pages:
            return None
        return max(1, bisect.bisect_right([start for start, _ in self.pages], offset))


def read_document(path: str | PathLike, *, encoding: str | None = None) -> Document:
    """Read a file as text.

    encoding: of a text, Markdown or HTML file; by default a byte order mark or (HTML) a declared charset decides, else UTF-8.
    Raises BadInput for every file that cannot be read as text.
    """
    path = Path(path).expanduser()
    data = _bytes_of(path)
    try:
        if data[:1024].lstrip().startswith(b"%PDF-") or path.suffix.lower() == ".pdf":
            text, title, pages = from_pdf(data)
            return Document(text, title or path.stem, pages, "pdf")
        if path.suffix.lower() == ".docx":
            return _document(path, *from_docx(data), "docx")
    except BadFormat as error:
        raise BadInput(f"{path} {error}") from None
    html = path.suffix.lower() in HTML
    text = _decoded(path, data, encoding, html)
    if html or re.match(r"\s*(<!doctype html|<html[\s>])", text[:512], re.IGNORECASE):
        return _document(path, *from_html(text), "html")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if path.suffix.lower() in MARKDOWN:
        heading = re.search(r"^#\s+(.+?)\s*#*$", text, re.MULTILINE)
        return _document(path, text, heading.group(1) if heading else "", "markdown")
    return _document(path, text, "", "text")


def _document(path: Path, text: str, title: str, kind: str) -> Document:
    if not text.strip():
        raise BadInput(f"{path} holds no text; give a file with text in it")
    return Document(text, title or path.stem, (), kind)


def _bytes_of(path: Path) -> bytes:
    if path.is_dir():
        raise BadInput(f"{path} is a folder; give one text, Markdown, HTML, PDF or .docx file")
    if not path.exists():
        raise BadInput(f"there is no file {path}")
    if not path.is_file():
        raise BadInput(f"{path} is not a regular file; give a text, Markdown, HTML, PDF or .docx file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"cannot read {path} ({error.strerror or 'input error'}); check its permissions"
        ) from None
    if not data:
        raise BadInput(f"{path} is empty; give a file with text in it")
    return data


def _decoded(path: Path, data: bytes, encoding: str | None, html: bool) -> str:
    """Return the text of `data`: the encoding asked for, a byte order mark, a declared HTML charset, or UTF-8."""
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    declared = re.search(rb"<meta[^>]+charset=[\"']?([\w-]+)", data[:4096], re.IGNORECASE) if html else None
    name = encoding or marked or (declared.group(1).decode() if declared else "utf-8")
    if not (encoding or marked) and _looks_binary(data):
        raise BadInput(f"{path} is a binary file; give a text, Markdown, HTML, PDF or .docx file")
    try:
        text = data.decode(codecs.lookup(name).name)
    except LookupError:  # no such codec, or one that turns bytes into bytes
        raise BadInput(
            f"{path}: unknown encoding {name!r}; use a name such as utf-8, cp1252 or shift_jis"
        ) from None
    except UnicodeError as error:
        fits = _fitting_encoding(data)
        advice = (
            f"it reads as {fits}: pass encoding={fits} or convert it to UTF-8"
            if fits
            else "convert it to UTF-8"
        )
        where = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise BadInput(f"{path} is not valid {name.upper()}{where}; {advice}") from None
    return text.removeprefix("\ufeff")


def _looks_binary(data: bytes) -> bool:
    head = data[: 1 << 16]
    control = sum(head.count(bytes([byte])) for byte in range(32) if byte not in (9, 10, 12, 13, 27))
    return 0 in head or control > 0.02 * len(head)


def _fitting_encoding(data: bytes) -> str | None:
    """Return the encoding that the bytes most likely have, or None when nothing fits."""
    from charset_normalizer import from_bytes

    best = from_bytes(data[: 1 << 16]).best()
    return best.encoding if best is not None else None


@cache
def real_text() -> str:
    """Return a long real text that every machine has: the language reference in Python's standard library, about 400,000 characters.

    Topics in alphabetical order under Markdown headings; a topic that another one contains whole is left out, so no passage
    repeats. The text is the same on every machine with the same version of Python.
    """
    from pydoc_data.topics import topics

    texts = {name: topics[name].strip() for name in sorted(topics) if topics[name].strip()}
    # A section that is a topic of its own and part of a larger one differs only in the line under its heading.
    bodies = {name: _UNDERLINED.sub(r"\g<title>", text) for name, text in texts.items()}
    chosen = [
        text
        for name, text in texts.items()
        if not any(
            bodies[name] in other and (len(bodies[name]), name) < (len(other), rival)
            for rival, other in bodies.items()
        )
    ]
    return "\n\n".join(map(_with_headings, chosen)) + "\n"


def _with_headings(text: str) -> str:
    """Turn headings underlined with *, = or - into Markdown's."""
    marks = {"*": "#", "=": "##", "-": "###"}
    return _UNDERLINED.sub(lambda found: f"{marks[found['line'][0]]} {found['title']}", text)
