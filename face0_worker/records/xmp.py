"""The XMP packet in a picture's file: what it says of its origin, in a PNG, a JPEG or a WebP."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator

from face0_worker.contract.receipt import DIGITAL_SOURCE_TYPE
from face0_worker.records.storage import check_id

CREATOR_TOOL = "face0"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEYWORD = b"XML:com.adobe.xmp\0"
_JPEG_KEYWORD = b"http://ns.adobe.com/xap/1.0/\0"
_LIMIT = 65536  # bytes; ours has under 1,000
# XMP part 1 (ISO 16684-1) for the packet, IPTC Photo Metadata 2023.2 for the source type
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
<dc:identifier>{reference}</dc:identifier>
<xmp:CreatorTool>{tool}</xmp:CreatorTool>
<xmpMM:InstanceID>xmp.iid:{instance}</xmpMM:InstanceID>
<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def make_packet(reference: str) -> str:
    """Return a packet that says that a picture was made by a trained model, with its reference; no two are equal."""
    return _PACKET.format(
        reference=check_id(reference), tool=CREATOR_TOOL, instance=uuid.uuid4(), source=DIGITAL_SOURCE_TYPE
    )


def find_packet(data: bytes) -> bytes | None:
    """Return the packet in a PNG, JPEG or WebP, None when there is none. Total: any bytes at all give an answer."""
    if data.startswith(_PNG):
        return next((packet for packet in map(_in_png, _png_chunks(data)) if packet is not None), None)
    if data.startswith(b"\xff\xd8"):
        found = (body for body in _jpeg_segments(data) if body.startswith(_JPEG_KEYWORD))
        return next((body[len(_JPEG_KEYWORD) :] for body in found), None)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return next(_webp_packets(data), None)
    return None


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Walk the chunks (PNG 3rd edition, section 5); checksums are not the point here."""
    at = len(_PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + 8 + min(length, _LIMIT)]
        at += 12 + length


def _in_png(chunk: tuple[bytes, bytes]) -> bytes | None:
    kind, body = chunk
    if kind != b"iTXt" or not body.startswith(_PNG_KEYWORD):
        return None
    # two compression bytes, then language and translated keyword, each ended by a zero
    parts = body[len(_PNG_KEYWORD) + 2 :].split(b"\0", 2)
    compressed = body[len(_PNG_KEYWORD) : len(_PNG_KEYWORD) + 1] != b"\0"
    return None if compressed or len(parts) != 3 else parts[2]


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    """Yield the bodies of APP1 segments before the picture begins (JPEG, ITU-T T.81, annex B)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xD9, 0xDA):
        (length,) = struct.unpack_from(">H", data, at + 2)
        if data[at + 1] == 0xE1:
            yield data[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)


def _webp_packets(data: bytes) -> Iterator[bytes]:
    """Yield the bodies of XMP chunks (WebP container, RFC 9649, section 2.7)."""
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"XMP ":
            yield data[at + 8 : at + 8 + min(length, _LIMIT)]
        at += 8 + length + length % 2
