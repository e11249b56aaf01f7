"""Documents: what is read, where its pages lie, and one sentence for each file that cannot be read."""

import io
import random
import zipfile

import pytest

from longspan.context.documents import read_document, real_text
from longspan.errors import BadInput


def make_pdf(pages: list[str], *, title: str = "", encrypt: bool = False) -> bytes:
    """Return a hand-written PDF with one line of Helvetica a page ("" gives a page without text)."""
    font = 3 + 2 * len(pages)
    kids = " ".join(f"{3 + 2 * number} 0 R" for number in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    for number, text in enumerate(pages):
        drawn = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET" if text else "0 0 m"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 200] /Contents {4 + 2 * number} 0 R "
            f"/Resources << /Font << /F1 {font} 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    objects.append(f"<< /Title ({title}) >>")
    extra = f"/Info {len(objects)} 0 R"
    if encrypt:
        # Owner and user entries that no password opens: enough for a reader to ask for one.
        objects.append(
            f"<< /Filter /Standard /V 1 /R 2 /Length 40 /P -4 /O <{'41' * 32}> /U <{'42' * 32}> >>"
        )
        extra += f" /Encrypt {len(objects)} 0 R /ID [<{'43' * 16}> <{'43' * 16}>]"
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    return (
        out
        + f"trailer << /Size {len(objects) + 1} /Root 1 0 R {extra} >>\nstartxref\n{start}\n%%EOF".encode()
    )


def make_docx(body: str) -> bytes:
    buffer = io.BytesIO()
    space = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            "word/document.xml", f'<w:document xmlns:w="{space}"><w:body>{body}</w:body></w:document>'
        )
    return buffer.getvalue()


def write(folder, name: str, data: bytes | str):
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_text_keeps_its_words_and_loses_its_mark(tmp_path):
    document = read_document(write(tmp_path, "notes.txt", b"\xef\xbb\xbfna\xc3\xafve\r\nline"))
    assert (document.text, document.title, document.kind, document.pages) == (
        "naïve\nline",
        "notes",
        "text",
        (),
    )


def test_utf16_with_a_mark_is_read(tmp_path):
    assert read_document(write(tmp_path, "a.txt", "grüße".encode("utf-16"))).text == "grüße"


def test_markdown_takes_its_title_from_the_first_heading(tmp_path):
    document = read_document(write(tmp_path, "a.md", "intro\n\n# The Title #\n\ntext"))
    assert (document.title, document.kind) == ("The Title", "markdown")


def test_html_keeps_headings_lists_tables_and_code(tmp_path):
    page = """<html><head><title> A  page </title><style>p{}</style></head><body><nav>menu</nav>
    <h1>Top</h1><p>One <b>bold</b>
    word.<br>Next line.</p><h2>Sub</h2><ul><li>first</li><li>second</li></ul>
    <table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
    <pre>def f():
    return 1</pre><script>alert(1)</script></body></html>"""
    document = read_document(write(tmp_path, "a.html", page))
    assert document.title == "A page"
    assert document.text == (
        "# Top\n\nOne bold word.\nNext line.\n\n## Sub\n\n- first\n- second\n\na | b\n1 | 2\n\ndef f():\n    return 1"
    )


def test_html_reads_its_declared_charset(tmp_path):
    data = '<html><head><meta charset="iso-8859-1"></head><body><p>grüße</p></body></html>'.encode("latin-1")
    assert read_document(write(tmp_path, "a.html", data)).text == "grüße"


def test_deeply_nested_html_does_not_overflow(tmp_path):
    data = "<div>" * 3000 + "deep" + "</div>" * 3000
    assert read_document(write(tmp_path, "a.html", data)).text == "deep"


def test_pdf_gives_the_span_of_each_page(tmp_path):
    data = make_pdf(["First page words", "", "Third page words"], title="A report")
    document = read_document(write(tmp_path, "a.pdf", data))
    assert document.kind == "pdf" and document.title == "A report"
    assert [document.text[start:end] for start, end in document.pages] == [
        "First page words",
        "",
        "Third page words",
    ]
    assert document.page_of(document.text.index("First")) == 1
    assert document.page_of(document.text.index("Third")) == 3
    assert document.page_of(len(document.text)) == 3


def test_pdf_is_known_by_its_bytes_not_its_name(tmp_path):
    assert read_document(write(tmp_path, "a.txt", make_pdf(["words"]))).kind == "pdf"


def test_docx_keeps_headings_and_tables(tmp_path):
    body = (
        '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Report</w:t></w:r></w:p>'
        '<w:p><w:r><w:t xml:space="preserve">Two </w:t></w:r><w:r><w:t>runs</w:t></w:r></w:p>'
        "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>b</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
    )
    document = read_document(write(tmp_path, "a.docx", make_docx(body)))
    assert (document.text, document.title, document.kind) == (
        "# Report\n\nTwo runs\n\na | b",
        "Report",
        "docx",
    )


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\t\n", "holds no text"),
        ("a.txt", b"\x7fELF\x02\x01\x00\x00" * 40, "binary"),
        ("a.txt", bytes(range(1, 32)) * 20, "binary"),
        (
            "a.txt",
            ("Où est passée la clé du château après l'été ? " * 8).encode("cp1252"),
            "is not valid UTF-8",
        ),
        ("a.html", b"<html><script>x</script></html>", "holds no text"),
        ("a.pdf", make_pdf(["words"], encrypt=True), "is encrypted"),
        ("a.pdf", make_pdf(["words"])[:150], "broken"),
        ("a.pdf", b"not a pdf at all", "broken"),
        ("a.pdf", make_pdf(["", ""]), "no text layer on its 2 pages"),
        ("a.docx", b"PK\x03\x04 nonsense", "broken"),
    ],
)
def test_unreadable_files_are_refused_in_one_sentence(tmp_path, name, data, said):
    path = write(tmp_path, name, data)
    with pytest.raises(BadInput) as refusal:
        read_document(path)
    assert said in str(refusal.value) and str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_encoding_offered_for_a_legacy_file_reads_it(tmp_path):
    words = "Où est passée la clé du château après l'été ? " * 8
    path = write(tmp_path, "a.txt", words.encode("cp1252"))
    with pytest.raises(BadInput) as refusal:
        read_document(path)
    offered = str(refusal.value).split("encoding=")[1].split()[0]
    assert read_document(path, encoding=offered).text == words


def test_missing_files_folders_and_unknown_encodings_are_refused(tmp_path):
    with pytest.raises(BadInput, match="there is no file"):
        read_document(tmp_path / "absent.txt")
    with pytest.raises(BadInput, match="is a folder"):
        read_document(tmp_path)
    with pytest.raises(BadInput, match="unknown encoding"):
        read_document(write(tmp_path, "a.txt", "x"), encoding="no-such")


def test_the_real_text_is_long_and_does_not_repeat_whole_topics():
    text = real_text()
    assert len(text) > 300_000
    assert text.startswith("# ")
    assert text.count("\n# ") > 40
    paragraphs = [part for part in text.split("\n\n") if len(part) > 400]
    assert len(set(paragraphs)) / len(paragraphs) > 0.9


def kinds_of_file():
    """A small valid file of every kind, by suffix."""
    page = "<html><head><meta charset='utf-8'><title>T</title></head><body><h1>Top</h1><p>words é</p></body></html>"
    docx = make_docx("<w:p><w:r><w:t>some words</w:t></w:r></w:p>")
    pdf = make_pdf(["First words", "more words"], title="A report")
    return {
        ".txt": b"plain words\n" * 9,
        ".md": b"# Title\n\nwords\n",
        ".html": page.encode(),
        ".pdf": pdf,
    } | {".docx": docx}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """`data` cut, with bytes replaced, a piece repeated, or noise alone."""
    way = rng.randrange(5)
    if way == 0:
        return data[: rng.randrange(len(data))]
    if way == 1:
        return rng.randbytes(rng.randrange(200))
    if way == 2:
        a, b = sorted(rng.randrange(len(data)) for _ in range(2))
        return data[:a] + data[a:b] * rng.randrange(4) + data[b:]
    if way == 3 and b"utf-8" in data:
        return data.replace(
            b"utf-8", rng.choice([b"hex", b"idna", b"undefined", b"utf-16", b"zip", b"rot13"])
        )
    out = bytearray(data)
    for _ in range(rng.randrange(1, 12)):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


@pytest.mark.parametrize(
    ("files", "seed"),
    [pytest.param(200, 0, id="few")]
    + [pytest.param(1000, n, marks=pytest.mark.slow, id=f"slice-{n}") for n in range(1, 11)],
)
def test_damaged_files_are_read_or_refused_in_a_sentence(files, seed, tmp_path):
    rng = random.Random(seed)
    whole = kinds_of_file()
    for number in range(files):
        suffix = rng.choice(sorted(whole))
        named = suffix if rng.random() < 0.8 else rng.choice(sorted(whole))
        path = write(tmp_path, f"{number}{named}", damaged(whole[suffix], rng))
        try:
            assert read_document(path).text.strip() or named == ".pdf"
        except BadInput as refusal:
            assert "\n" not in str(refusal)
        path.unlink()
