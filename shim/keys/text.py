"""Text from elsewhere, such as labels that APIM users choose, made fit for a log line and a terminal."""

import unicodedata

# Shown in place of each character that is not printable.
REPLACEMENT = "\ufffd"


def printable(text: str) -> str:
    """`text` as one line of visible characters.

    Line breaks would forge log lines, escape sequences would reach the operator's terminal, and invisible or
    bidirectional controls would make a label look like another (https://cwe.mitre.org/data/definitions/117.html,
    https://www.unicode.org/reports/tr36/).
    """
    if text.isprintable():
        return text
    return "".join(map(_printable_character, text))


def _printable_character(character: str) -> str:
    if character.isprintable():
        return character
    # No-break and ideographic spaces are not printable to Python, and common in names.
    return " " if unicodedata.category(character) == "Zs" else REPLACEMENT
