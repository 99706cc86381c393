"""Write down what is said in an audio file, with times. Needs the extra `whisper`; the first run fetches the model."""

import sys
from pathlib import Path

from cactus_py import Client

CLIP = Path(__file__).parent.parent / "tests" / "data" / "speech" / "asterisk_en_dir-nomore.wav"

with Client() as client:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else CLIP
    reply = client.audio.transcriptions.create(file=file, response_format="verbose_json")
    for segment in reply.segments or ():
        print(f"{segment.start:6.2f} s to {segment.end:.2f} s: {segment.text.strip()}")
    print(f"{reply.duration:.2f} s of {reply.language}, written down by {reply.model}")
