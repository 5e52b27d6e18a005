"""Texts that are Unicode."""


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: lone surrogates cannot, as in JSON's "\\ud83d" or
    where bytes that are not UTF-8 were decoded with surrogateescape.
    """
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
