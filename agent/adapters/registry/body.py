"""The body of an answer, as far as it is read."""

import aiohttp

_CHUNK_BYTES = 64 * 1024


async def read_body(reply: aiohttp.ClientResponse, limit_bytes: int) -> bytes | None:
    """Return the body of *reply*; None where it is longer than *limit_bytes*, of which no more is read."""
    body = bytearray()
    async for chunk in reply.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > limit_bytes:
            return None
    return bytes(body)
