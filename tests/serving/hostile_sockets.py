"""What clients send that is no HTTP, or only in part."""

import asyncio

from edge_lib.serving.schemas.examples import PICTURE

BODY = b'{"prompt": "what?", "images": ["' + PICTURE.encode() + b'"], "max_tokens": 200}'
HEAD = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
FULL = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
STREAM = b'{"messages": [{"role": "user", "content": "what?"}], "stream": true, "max_tokens": 200}'
SEND = [
    b"",
    b"\0" * 100,
    b"\x16\x03\x01\x02\0\x01\0",  # TLS
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /health HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\rb\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    HEAD + b"Content-Length: 1e3\r\n\r\n{}",
    HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    HEAD + b"Content-Length: 500\r\n\r\n{}",  # the rest never comes
    FULL[:-20],
    FULL * 3,  # in a row
    FULL,  # and gone before the answer
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM,
]


async def hostile_connection(port, rng):
    """Send something, wait for a moment or for an answer, and leave in some way. The answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content, answer = rng.choice(SEND), b""
    try:
        if rng.random() < 0.2:  # slowly
            for start in range(0, min(len(content), 60), 10):
                writer.write(content[start : start + 10])
                await asyncio.sleep(0.02)
        else:
            writer.write(content)
        async with asyncio.timeout(rng.choice([0.0, 0.02, 0.3])):
            answer = await reader.read(1 << 16)
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort() if rng.random() < 0.5 else writer.close()
    return answer
