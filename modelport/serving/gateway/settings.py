"""What a gateway is told."""

from dataclasses import dataclass
from pathlib import Path

from modelport.imaging import Limits


@dataclass(frozen=True)
class GatewaySettings:
    """Files, limits and patience of a gateway. Times are in seconds, sizes in bytes."""

    keys: Path
    """JSON file ``{caller: sha256 of the key in hex}``, read again when it changes."""
    spool: Path
    """Folder of prediction records that the object store does not have yet; one gateway's own."""
    max_bytes: int = 20 * 1024 * 1024
    """Largest image file."""
    max_pixels: int = 50_000_000
    """Largest image, width times height."""
    max_in_flight: int = 32
    """Predictions worked on at once, so that memory is bounded; more wait."""
    max_queued: int = 256
    """Requests that wait at once; more are told to come back."""
    queue_seconds: float = 5.0
    """For which a request may wait before it is told to come back."""
    max_pixels_in_flight: int = 200_000_000
    """Pixels of all images that are being worked on; three bytes each, and as many again on their way to Triton. More
    wait."""
    decode_threads: int = 4
    """Images decoded, and answers rendered, at once."""
    upload_seconds: float = 60.0
    """For which a client may take to send its image."""
    deadline: float = 30.0
    """For which an inference may take."""
    refresh: float = 0.5
    """Between looks at what the replicas have loaded."""
    spool_bytes: int = 64 * 1024 * 1024
    """Bound of the spool; beyond it the oldest records are dropped."""
    record_rows: int = 1000
    """Records are stored when there are this many,"""
    record_seconds: float = 30.0
    """or this long after the last time."""

    @property
    def limits(self) -> Limits:
        """Limits of the decoder."""
        return Limits(max_bytes=self.max_bytes, max_pixels=self.max_pixels)
