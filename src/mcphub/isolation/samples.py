"""A private note in the formats that tools read: what each user's directory holds. Pure.

A tool that opens spreadsheets fails on a plain text, and then shows nothing of whose file it reads.
"""

import io
import json
import re
import sqlite3
import zipfile
from collections.abc import Callable, Mapping
from typing import Final
from xml.sax.saxutils import escape

PLAIN: Final = ".txt"
_XML: Final = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_OFFICE: Final = "http://schemas.openxmlformats.org"
_PART: Final = "application/vnd.openxmlformats-officedocument"
# The first that fits a tool's words decides; an extension that is named counts before these.
_BY_WORD: Final = (
    (".xlsx", re.compile(r"excel|spreadsheet|workbook|worksheet", re.IGNORECASE)),
    (".docx", re.compile(r"\bword doc|microsoft word|\bdocx\b", re.IGNORECASE)),
    (".ipynb", re.compile(r"jupyter|notebook", re.IGNORECASE)),
    (".pdf", re.compile(r"\bpdf\b", re.IGNORECASE)),
    (".csv", re.compile(r"\bcsv\b", re.IGNORECASE)),
    (".db", re.compile(r"\bsqlite\b|database file", re.IGNORECASE)),
)
_NAMED: Final = re.compile(r"\.(docx|xlsx|ipynb|pdf|md|json|csv|html|db)\b", re.IGNORECASE)


def extension_of(about: str) -> str:
    """Return the extension of the sample that fits a tool and its parameter, by their words."""
    named = _NAMED.search(about)
    if named is not None:
        return named[0].lower()
    return next((extension for extension, words in _BY_WORD if words.search(about)), PLAIN)


def samples(note: str) -> dict[str, bytes]:
    """Return the note as files: extension -> content."""
    return {PLAIN: f"{note}\n".encode()} | {
        extension: make(note) for extension, make in _MAKERS.items()
    }


def _database(note: str) -> bytes:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE notes (note TEXT)")
        connection.execute("INSERT INTO notes VALUES (?)", (note,))
        connection.commit()
        return connection.serialize()
    finally:
        connection.close()


def _notebook(note: str) -> bytes:
    """Return a notebook of one cell of text and one of code (nbformat 4.5)."""
    cells = [
        {"cell_type": "markdown", "id": "first", "metadata": {}, "source": [note]},
        {
            "cell_type": "code",
            "id": "second",
            "metadata": {},
            "source": [f"print('{note}')"],
            "execution_count": None,
            "outputs": [],
        },
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return json.dumps(
        {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    ).encode()


def _pdf(note: str) -> bytes:
    """Return one page of PDF 1.4 (ISO 32000-1 §7.5) with the note in Helvetica."""
    stream = f"BT /F1 12 Tf 72 720 Td ({note}) Tj ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        "/Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    text, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(text))
        text += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size, start = len(objects) + 1, len(text)
    text += f"xref\n0 {size}\n0000000000 65535 f \n{table}"
    text += f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
    return text.encode("ascii")


def _package(parts: Mapping[str, str], main: str, kind: str) -> bytes:
    """Return an Office Open XML package (ECMA-376 part 2) around its main part."""
    overrides = "".join(
        f'<Override PartName="/{name}" ContentType="{_PART}.{content_type}+xml"/>'
        for name, content_type in _TYPES.items()
        if name in parts
    )
    types = (
        f'{_XML}<Types xmlns="{_OFFICE}/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Default Extension="xml" ContentType="application/xml"/>{overrides}</Types>'
    )
    relations = _relations(f"{_OFFICE}/officeDocument/2006/relationships/officeDocument", main)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {
            "[Content_Types].xml": types,
            "_rels/.rels": relations,
            **parts,
            **({"xl/_rels/workbook.xml.rels": _SHEETS} if kind == "xlsx" else {}),
        }.items():
            archive.writestr(name, text)
    return data.getvalue()


def _relations(kind: str, target: str) -> str:
    return (
        f'{_XML}<Relationships xmlns="{_OFFICE}/package/2006/relationships">'
        f'<Relationship Id="rId1" Type="{kind}" Target="{target}"/></Relationships>'
    )


_SHEETS: Final = _relations(
    f"{_OFFICE}/officeDocument/2006/relationships/worksheet", "worksheets/sheet1.xml"
)
_TYPES: Final = {
    "xl/workbook.xml": "spreadsheetml.sheet.main",
    "xl/worksheets/sheet1.xml": "spreadsheetml.worksheet",
    "word/document.xml": "wordprocessingml.document.main",
}


def _workbook(note: str) -> bytes:
    main = f"{_OFFICE}/spreadsheetml/2006/main"
    book = (
        f'{_XML}<workbook xmlns="{main}" xmlns:r="{_OFFICE}/officeDocument/2006/relationships">'
        '<sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>'
    )
    sheet = (
        f'{_XML}<worksheet xmlns="{main}"><dimension ref="A1"/><sheetData><row r="1"><c r="A1" t="inlineStr"><is><t>'
        f"{escape(note)}</t></is></c></row></sheetData></worksheet>"
    )
    parts = {"xl/workbook.xml": book, "xl/worksheets/sheet1.xml": sheet}
    return _package(parts, "xl/workbook.xml", "xlsx")


def _document(note: str) -> bytes:
    main = f"{_OFFICE}/wordprocessingml/2006/main"
    text = (
        f'{_XML}<w:document xmlns:w="{main}"><w:body><w:p><w:r><w:t>{escape(note)}</w:t></w:r></w:p>'
        "</w:body></w:document>"
    )
    return _package({"word/document.xml": text}, "word/document.xml", "docx")


_MAKERS: Final[Mapping[str, Callable[[str], bytes]]] = {
    ".md": lambda note: f"# Note\n\n{note}\n".encode(),
    ".json": lambda note: json.dumps({"note": note}).encode(),
    ".csv": lambda note: f"note\n{note}\n".encode(),
    ".html": lambda note: f"<p>{escape(note)}</p>\n".encode(),
    ".ipynb": _notebook,
    ".db": _database,
    ".pdf": _pdf,
    ".xlsx": _workbook,
    ".docx": _document,
}
