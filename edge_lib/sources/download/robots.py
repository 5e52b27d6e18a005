"""The header X-Robots-Tag: what the owner of a picture forbids."""

AGENT = "edge-glass"
FORBIDDING = {"noai", "noimageai", "noindex", "noimageindex", "none"}
VALUED = {"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"}


def forbids(tag: str) -> bool:
    """Whether a value of the header forbids to use the picture in a data set.

    `noai, noindex` is for everyone; in `otherbot: noai, googlebot: noindex` a name is that of the
    agent for which the directives up to the next name are.
    """
    agent = ""
    for part in tag.lower().split(","):
        name, colon, directive = (text.strip() for text in part.partition(":"))
        if not colon:
            directive = name
        elif name in VALUED:
            continue
        else:
            agent = name
        if agent in ("", "*", AGENT) and directive in FORBIDDING:
            return True
    return False
