"""Large payloads in memory files: passed to and from the engine instead of their bytes.

A descriptor goes over a socket of its own, before the frame that means it, with the number of the
attempt. An argument's file holds the whole payload and never changes; it is mapped copy-on-write,
so arguments can be written to, and nobody else sees that. An input's file is kept, and mapped each
time that its value is made. A result's file is laid out here as
clients read it, but for its first part, which the engine writes before it seals the file.
"""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
import weakref
from typing import Iterator, Sequence

from furlong_worker import Buffer
from furlong_worker.output import far_copy

NUMBER = struct.Struct("<Q")
PLACE = struct.Struct("<QQ")
ALIGNMENT = 64
# Results with fewer bytes are sent: the same number as for the engine (`FILE_BYTES_MIN`).
FILE_BYTES_MIN = 32 * 1024
# Before Python 3.13 each mapping keeps a descriptor. Files beyond so many are copied.
MAPPED_MAX = 256
# Smaller ones are rather copied than mapped.
MAPPED_BYTES_MIN = 128 * 1024
# The system writes no more at once.
WRITE_BYTES_MAX = 1 << 30
SEALABLE = 2  # MFD_ALLOW_SEALING
CLOSE_ON_EXEC = 1  # MFD_CLOEXEC
NOT_EXECUTABLE = 8  # MFD_NOEXEC_SEAL
READ_AND_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


class Files:
    """The socket for the descriptors, both ways."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

    def leave(self) -> None:
        """Close the socket of a process that was forked."""
        self._socket.close()

    def open(self, table: memoryview) -> list[Buffer]:
        """Take the next file and return the buffers that lie at these places in it.

        Raises `OSError` or `MemoryError` if there is no room for them.
        """
        fd = self._receive()
        try:
            size = os.fstat(fd).st_size
            content = self._map(fd, size)
        finally:
            os.close(fd)
        return [content[at : at + size] for at, size in PLACE.iter_unpack(table)]

    def keep(self, table: memoryview) -> KeptFile:
        """Take the next file, to be mapped when its content is needed."""
        fd = self._receive()
        try:
            # Out of the way of code that closes or replaces the first ones.
            return KeptFile(self, far_copy(fd), list(PLACE.iter_unpack(table)))
        finally:
            os.close(fd)

    def _receive(self) -> int:
        _, messages, _, _ = self._socket.recvmsg(
            NUMBER.size, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
        )
        if not messages:
            os._exit(0)  # the engine is gone
        return struct.unpack("i", messages[0][2][:4])[0]  # type: ignore[no-any-return]

    def _map(self, fd: int, size: int, protection: int = READ_AND_WRITE) -> memoryview:
        if size >= MAPPED_BYTES_MIN and len(self._mapped) < MAPPED_MAX:
            # Private: before Linux 6.7 a sealed file cannot be mapped shared, even to be read.
            mapped = mmap.mmap(fd, size, mmap.MAP_PRIVATE, protection)
            self._mapped.add(mapped)
            return memoryview(mapped)
        content = memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        filled = 0
        while filled < size:
            filled += os.preadv(fd, [content[filled : filled + WRITE_BYTES_MAX]], filled)
        return content

    def write(self, number: int, buffers: Sequence[Buffer]) -> bool:
        """Pass a result in a file. False if it must be sent: there is no room for a file."""
        fd = _create()
        if fd is None:
            return False
        try:
            places = list(_places([len(buffer) for buffer in buffers]))
            at, size = places[-1]
            os.ftruncate(fd, at + size)
            for (at, size), buffer in zip(places, buffers):
                view = memoryview(buffer)
                done = 0
                while done < size:
                    done += os.pwrite(fd, view[done : done + WRITE_BYTES_MAX], at + done)
            rights = array.array("i", [fd])
            self._socket.sendmsg(
                [NUMBER.pack(number)],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)],
                socket.MSG_DONTWAIT,
            )
        except OSError:
            return False
        finally:
            os.close(fd)
        return True


class KeptFile:
    """A file that holds an input, and the places of its buffers."""

    def __init__(self, files: Files, fd: int, places: Sequence[tuple[int, int]]) -> None:
        self._files, self._fd, self._places = files, fd, places
        self.nbytes = sum(size for _, size in places)

    def map(self, is_shared: bool) -> list[Buffer]:
        """Return the buffers: of the caller alone, who may write to them; or read-only, if shared.

        Raises `OSError` or `MemoryError` if there is no room for them.
        """
        protection = mmap.PROT_READ if is_shared else READ_AND_WRITE
        size = os.fstat(self._fd).st_size
        content = self._files._map(self._fd, size, protection)
        if is_shared:
            content = content.toreadonly()
        return [content[at : at + size] for at, size in self._places]

    def __del__(self) -> None:
        """Close it."""
        os.close(self._fd)


def _create() -> int | None:
    """Create a memory file that can be sealed; none if the system has none."""
    for flags in (NOT_EXECUTABLE, 0):  # before Linux 6.3 there is no such flag
        try:
            return os.memfd_create("furlong-result", CLOSE_ON_EXEC | SEALABLE | flags)
        except (OSError, AttributeError):
            continue
    return None


def _places(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the place and size of each buffer.

    The table of sizes is before them, and a header of one byte.
    """
    at = _aligned(NUMBER.size * (len(sizes) + 2)) + 1
    for size in sizes:
        at = _aligned(at)
        yield at, size
        at += size


def _aligned(at: int) -> int:
    return (at + ALIGNMENT - 1) & -ALIGNMENT
