"""Looks for secrets where none may be."""


def secrets_in(text: str, forbidden_strings: list[str]) -> list[str]:
    """Which of these strings a text shows more than eight characters of."""
    shown = []
    for secret in forbidden_strings:
        pieces = (secret[at : at + 9] for at in range(len(secret) - 8))
        shown += [piece for piece in pieces if piece in text]
    return shown
