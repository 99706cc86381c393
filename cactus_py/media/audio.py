"""Audio files as samples: any of the usual formats in, mono at 16 kHz out. FFmpeg decodes, through PyAV, which the extra
`whisper` brings.

A file is hostile input. It is read from memory only; formats that name other files (playlists, lists of parts) are not opened;
decoding stops as soon as there is more sound than allowed.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ..errors import InvalidRequestError, MissingExtraError, OutOfMemoryError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["SAMPLE_RATE", "decode"]

SAMPLE_RATE = 16_000
_SHORTEST_S = 0.1
_LOWEST_RATE = 1000
# FFmpeg's names. What these open is one stream of bytes, never a further file.
_FORMATS = "wav,w64,aiff,au,caf,mp3,flac,ogg,matroska,webm,mov,mp4,m4a,3gp,aac,amr,avi,asf,mpeg,mpegts,wv,tta,ape"


def decode(audio: bytes, limit_s: float | None = None) -> NDArray[np.float32]:
    """The sound of a file, all channels mixed: float32 [n_samples] in -1 to 1, at 16 kHz.

    Packets that are damaged are left out. Raises InvalidRequestError if there is no sound, less than a tenth of a second of it,
    or more than `limit_s` seconds; MissingExtraError without PyAV.
    """
    try:
        import av
    except ImportError:
        raise MissingExtraError("reading audio files", "whisper") from None
    import numpy as np

    if not audio:
        raise _refused("the audio file is empty")
    limit = None if limit_s is None else int(limit_s * SAMPLE_RATE)
    pieces: list[NDArray[np.int16]] = []
    n_samples = 0
    try:
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
        with av.open(io.BytesIO(audio), mode="r", metadata_errors="ignore", options=options) as container:
            if not container.streams.audio:
                raise _refused("the file holds no sound" + (", only pictures or text" if len(container.streams) else ""))
            stream = container.streams.audio[0]
            if stream.rate and stream.rate < _LOWEST_RATE:  # a few bytes would become hours
                raise _refused(f"the audio has {stream.rate} samples a second; there must be at least {_LOWEST_RATE}")
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
            for packet in container.demux(stream):
                for frame in _frames(packet, av):
                    frame.pts = None  # times that contradict each other are no reason to fail
                    for made in resampler.resample(frame):
                        n_samples += made.samples
                        pieces.append(np.asarray(made.to_ndarray(), np.int16).reshape(-1))
                if limit is not None and n_samples > limit:
                    raise _refused(f"the audio is longer than {limit_s:g} seconds, which is the limit here (max_audio_s)")
            for made in resampler.resample(None) if pieces else ():
                pieces.append(np.asarray(made.to_ndarray(), np.int16).reshape(-1))
    except InvalidRequestError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError("there is not enough memory to decode the audio") from error
    except (av.FFmpegError, ValueError, TypeError, OSError, RuntimeError, LookupError) as error:
        known = "wav, mp3, flac, ogg, webm and m4a are"
        raise _refused(f"the audio file is damaged, or of a format that is not read here ({known})") from error
    if not pieces:
        raise _refused("the audio file is damaged: nothing in it can be decoded")
    samples = np.concatenate(pieces)
    if len(samples) < _SHORTEST_S * SAMPLE_RATE:
        raise _refused(f"the audio is shorter than {_SHORTEST_S} seconds")
    return samples.astype(np.float32) / 32768.0


def _frames(packet: Any, av: Any) -> list[Any]:
    """What a packet holds; nothing if it is damaged."""
    try:
        return list(packet.decode())
    except av.error.InvalidDataError:
        return []


def _refused(sentence: str) -> InvalidRequestError:
    return InvalidRequestError(sentence, "file")
