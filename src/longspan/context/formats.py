"""Text out of HTML, PDF and Word bytes, with headings kept as Markdown's. Raises BadFormat with the end of a sentence."""

import io
import lzma
import re
import struct
import zipfile
import zlib
from xml.etree import ElementTree

MAX_UNPACKED = 1 << 28  # bytes of XML read from a .docx: a small archive can unpack to anything

_SKIPPED = (
    "script",
    "style",
    "noscript",
    "template",
    "svg",
    "nav",
    "footer",
    "aside",
    "form",
    "iframe",
    "head",
)
_BLOCKS = (
    *(
        "p",
        "div",
        "section",
        "article",
        "main",
        "header",
        "blockquote",
        "figure",
        "figcaption",
        "table",
        "ul",
        "ol",
        "dl",
    ),
    *("h1", "h2", "h3", "h4", "h5", "h6", "pre", "hr", "address", "details", "summary"),
)
_LINES = ("li", "tr", "dt", "dd")
# Private-use characters stand for layout while white space is collapsed.
_PARAGRAPH, _LINE, _SPACE = "\ue000", "\ue001", "\ue002"
# What zipfile and the XML reader raise over damaged bytes: each trusts sizes, offsets, methods and encodings found in the file.
_BROKEN_ARCHIVE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, ElementTree.ParseError),
    *(LookupError, ValueError, ArithmeticError, RuntimeError, EOFError, OSError, MemoryError),
)
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


class BadFormat(Exception):
    """The bytes cannot be read as text: the message continues a sentence that starts with the file's name."""


def from_html(html: str) -> tuple[str, str]:
    """Return (text, title) of a page: headings, list items, table rows and <pre> keep their shape; menus and scripts go."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(
        html.translate({ord(mark): None for mark in (_PARAGRAPH, _LINE, _SPACE)}), "html.parser"
    )
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for tag in soup.find_all(_SKIPPED):
        tag.decompose()
    for tag in soup.find_all("pre"):
        tag.string = tag.get_text().strip("\n").replace("\n", _LINE).replace(" ", _SPACE)
    for tag in soup.find_all("br"):
        tag.replace_with(_LINE)
    for tag in soup.find_all(("td", "th")):
        if tag.find_previous_sibling(("td", "th")):
            tag.insert(0, " | ")
    for tag in soup.find_all("li"):
        tag.insert(0, "- ")
    for tag in soup.find_all(re.compile("^h[1-6]$")):
        tag.insert(0, "#" * int(tag.name[1]) + " ")
    for tag in soup.find_all(_LINES):
        tag.insert_before(_LINE)
    for tag in soup.find_all(_BLOCKS):
        tag.insert_before(_PARAGRAPH)
        tag.insert_after(_PARAGRAPH)
    text = re.sub(r"\s+", " ", soup.get_text())
    text = re.sub(rf" ?([{_PARAGRAPH}{_LINE}]) ?", r"\1", text)
    text = re.sub(rf"[{_PARAGRAPH}{_LINE}]*{_PARAGRAPH}[{_PARAGRAPH}{_LINE}]*", "\n\n", text)
    text = text.replace(_LINE, "\n").replace(_SPACE, " ")
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n"), title


def from_pdf(data: bytes) -> tuple[str, str, tuple[tuple[int, int], ...]]:
    """Return (text, title, (start, end) of every page in the text). Pages are joined by an empty line."""
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower() or "security" in str(error).lower():
            raise BadFormat("is encrypted; save a copy without a password first") from None
        raise BadFormat(
            "is not a PDF that can be read (broken or cut short); save it again from its source"
        ) from None
    try:
        if len(pdf) == 0:
            raise BadFormat("is a PDF without pages; save it again from its source")
        text, pages = "", []
        for number in range(len(pdf)):
            start = len(text)
            text += _page_text(pdf, number)
            pages.append((start, len(text)))
            text += "\n\n"
        title = (pdf.get_metadata_value("Title") or "").strip()
    finally:
        pdf.close()
    if not text.strip():
        raise BadFormat(
            f"has no text layer on its {len(pages)} pages (scanned?); run text recognition (OCR) first"
        )
    return text.removesuffix("\n\n"), title, tuple(pages)


def _page_text(pdf, number: int) -> str:
    import pypdfium2

    try:
        page = pdf[number]
        layer = page.get_textpage()
    except pypdfium2.PdfiumError:
        raise BadFormat(
            f"has a page that cannot be read (page {number + 1}); save it again from its source"
        ) from None
    text = layer.get_text_range()
    layer.close()
    page.close()
    text = re.sub("[\x02\ufffe]\r?\n?", "", text)  # PDFium's mark for a word hyphenated at the end of a line
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").strip()


def from_docx(data: bytes) -> tuple[str, str]:
    """Return (text, title) of a Word file: paragraphs in order, heading styles as Markdown headings, table cells joined by |."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.getinfo("word/document.xml").file_size > MAX_UNPACKED:
                raise BadFormat(f"unpacks to more than {MAX_UNPACKED >> 20} MiB; split it first")
            root = ElementTree.fromstring(archive.read("word/document.xml"))
    except _BROKEN_ARCHIVE:
        raise BadFormat(
            "is not a .docx file that can be read (broken or encrypted); save it again from its source"
        ) from None
    body = root.find(f"{_WORD}body")
    blocks: list[str] = []
    title = ""
    for block in body if body is not None else ():
        if block.tag == f"{_WORD}tbl":
            rows = [
                " | ".join(_run_text(cell) for cell in row.iter(f"{_WORD}tc"))
                for row in block.iter(f"{_WORD}tr")
            ]
            blocks.append("\n".join(rows))
        elif block.tag == f"{_WORD}p":
            text = _run_text(block)
            style = block.find(f"{_WORD}pPr/{_WORD}pStyle")
            name = style.get(f"{_WORD}val", "") if style is not None else ""
            level = re.fullmatch(r"[Hh]eading ?([1-6])", name)
            if name == "Title" or (level and not title):
                title = title or text
            if name == "Title" or level:
                text = "#" * (int(level.group(1)) if level else 1) + " " + text
            blocks.append(text)
    return "\n\n".join(block for block in blocks if block.strip()), title


def _run_text(element) -> str:
    pieces = {f"{_WORD}tab": "\t", f"{_WORD}br": "\n", f"{_WORD}cr": "\n"}
    return "".join(
        node.text or "" if node.tag == f"{_WORD}t" else pieces.get(node.tag, "") for node in element.iter()
    ).strip()
