"""Passes connections on, from one network namespace into another.

Run as ``python -m tests.cluster.relay FILE HOST PORT``: FILE is the number of an open listening socket. A socket stays
in the namespace in which it was made, so connections come from there and go to HOST and PORT in the namespace of this
process.
"""

import asyncio
import contextlib
import socket
import sys


async def main(listener: socket.socket, host: str, port: int) -> None:
    """Serve for ever."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))
        far_writer.close()
        writer.close()

    server = await asyncio.start_server(accept, sock=listener)
    await server.serve_forever()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything from one side to the other, its end included."""
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
        return
    # One side is broken: the other learns of it.
    writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3])))
