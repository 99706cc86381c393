"""Speech as text: equal to what faster-whisper itself makes of the same weights, in OpenAI's formats; files without sound."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cactus_py import AsyncClient, Client, cli
from cactus_py.backends import create, faster_whisper
from cactus_py.backends.base import BackendOptions
from cactus_py.errors import (
    InvalidRequestError,
    MissingExtraError,
    ModelFormatError,
    RequestCancelledError,
    RequestTimeoutError,
    UnknownModelError,
)
from cactus_py.types import TranscriptionRequest, TranslationRequest, parse_request
from cactus_py.types.audio import LANGUAGES

SPEECH = Path(__file__).parent / "data" / "speech"
CLIPS = sorted(SPEECH.glob("*.wav"))
CLIP = SPEECH / "asterisk_en_dir-nomore.wav"
SCRIPT = "There are no more compatible entries in the directory."

av = pytest.importorskip("av", reason="PyAV is not installed (the extra whisper)")


@pytest.fixture(scope="module")
def client(whisper_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(str(whisper_path), threads=2, home=tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.fixture(scope="module")
def peer(whisper_path: Path) -> Any:
    """faster-whisper on the same folder, set up as the backend sets it up."""
    from faster_whisper import WhisperModel

    return WhisperModel(str(whisper_path), device="cpu", compute_type="int8", cpu_threads=2)


def samples_of(file: Path) -> Any:
    from cactus_py.media.audio import decode

    return decode(file.read_bytes())


def encoded(samples: Any, form: str, codec: str, rate: int, layout: str = "mono") -> bytes:
    """The samples (16 kHz) as a file of another format, by PyAV."""
    import numpy as np

    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        resampler, fifo = av.AudioResampler(format=stream.format, layout=layout, rate=rate), av.AudioFifo()
        for piece in resampler.resample(frame):
            piece.pts = None
            fifo.write(piece)
        step = stream.codec_context.frame_size or 1024
        while fifo.samples:
            container.mux(stream.encode(fifo.read(min(step, fifo.samples))))
        container.mux(stream.encode(None))
    return out.getvalue()


def silent_video() -> bytes:
    """A film without sound."""
    import numpy as np

    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    return out.getvalue()


# ---- decoding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "codec", "rate", "layout"),
    [
        ("wav", "pcm_s16le", 8_000, "mono"),
        ("mp3", "libmp3lame", 44_100, "stereo"),
        ("flac", "flac", 16_000, "mono"),
        ("ogg", "libopus", 48_000, "mono"),
        ("webm", "libopus", 48_000, "stereo"),
        ("ipod", "aac", 32_000, "mono"),  # m4a
        ("mp4", "aac", 44_100, "stereo"),
    ],
)
def test_samples_are_those_of_faster_whispers_decoder(form: str, codec: str, rate: int, layout: str) -> None:
    from cactus_py.media.audio import decode

    reference = pytest.importorskip("faster_whisper.audio")
    try:
        file = encoded(samples_of(CLIP), form, codec, rate, layout)
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this build of FFmpeg has no encoder {codec}")
    mine, theirs = decode(file), reference.decode_audio(io.BytesIO(file))
    assert mine.dtype == theirs.dtype and abs(len(mine) / 16_000 - 3.12) < 0.2
    assert (mine == theirs).all()


def playlist(tmp_path: Path) -> bytes:
    (tmp_path / "x.wav").write_bytes(CLIP.read_bytes())
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{(tmp_path / 'x.wav').as_uri()}\n#EXT-X-ENDLIST\n".encode()


def parts_list(tmp_path: Path) -> bytes:
    (tmp_path / "x.wav").write_bytes(CLIP.read_bytes())
    return f"ffconcat version 1.0\nfile {tmp_path / 'x.wav'}\n".encode()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\0" * 5_000, "damaged, or of a format"),
        (b"not a sound " * 100, "damaged, or of a format"),
        (b"RIFF\0\0\0\0WAVE", "damaged, or of a format"),
        (CLIP.read_bytes()[:44], "nothing in it can be decoded"),
        (CLIP.read_bytes()[:1_000], "shorter than 0.1 seconds"),
        (silent_video, "holds no sound, only pictures"),
        (playlist, "damaged, or of a format"),
        (parts_list, "damaged, or of a format"),
    ],
)
def test_what_is_no_audio_is_refused(content: Any, sentence: str, tmp_path: Path) -> None:
    from cactus_py.media.audio import decode

    if callable(content):
        content = content(tmp_path) if content is not silent_video else content()
    with pytest.raises(InvalidRequestError, match=sentence) as caught:
        decode(content)
    assert caught.value.param == "file"


def test_a_rate_that_would_blow_up_is_refused() -> None:
    from cactus_py.media.audio import decode

    wav = bytearray(CLIP.read_bytes())
    wav[24:28] = (1).to_bytes(4, "little")
    with pytest.raises(InvalidRequestError, match="at least 1000"):
        decode(bytes(wav))


def test_every_cut_and_many_flips_are_audio_or_an_error() -> None:
    import random

    from cactus_py.media.audio import decode

    whole = encoded(samples_of(CLIP)[:16_000], "flac", "flac", 16_000)
    random.seed(5)
    for _ in range(150):
        bad = bytearray(whole[: random.randrange(len(whole) + 1)])
        for _ in range(random.randrange(4)):
            if bad:
                bad[random.randrange(min(len(bad), 300))] = random.randrange(256)
        try:
            assert decode(bytes(bad), 60).ndim == 1
        except InvalidRequestError as error:
            assert error.param == "file"


def test_the_limit_holds_while_decoding() -> None:
    from cactus_py.media.audio import decode

    assert len(decode(CLIP.read_bytes(), 3.2)) == 49_968
    with pytest.raises(InvalidRequestError, match="longer than 3 seconds"):
        decode(CLIP.read_bytes(), 3)


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from cactus_py.media.audio import decode

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match="whisper"):
        decode(b"x")


# ---- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"language": "english"}, "language", 'did you mean "en"'),
        ({"language": "xx"}, "language", "ISO 639-1"),
        ({"temperature": 1.5}, "temperature", "less than or equal to 1"),
        ({"response_format": "yaml"}, "response_format", "'json'"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities", "verbose_json"),
        ({"response_format": "verbose_json", "timestamp_granularities": ["page"]}, "timestamp_granularities[0]", "'word'"),
        ({"response_format": "srt", "stream": True}, "response_format", "stream"),
        ({"include": ["logprobs"]}, "include", "not supported"),
        ({"promt": "x"}, "promt", 'did you mean "prompt"'),
        ({"prompt": "\ud800"}, "prompt", "surrogate"),
    ],
)
def test_requests_are_checked(fields: dict[str, Any], param: str, sentence: str) -> None:
    with pytest.raises(InvalidRequestError, match=re.escape(sentence)) as caught:
        parse_request(TranscriptionRequest, fields)
    assert caught.value.param == param


def test_languages_are_those_of_whisper() -> None:
    codes = pytest.importorskip("faster_whisper.tokenizer")._LANGUAGE_CODES
    assert set(LANGUAGES) == set(codes)
    assert parse_request(TranscriptionRequest, {"language": " EN"}).language == "en"
    assert parse_request(TranscriptionRequest, {"language": "jv"}).language == "jw", "Javanese has a code of its own there"


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("clip.wav", "pathlib"),
        (7, "not int"),
        (("a.wav",), r"\(name, content\)"),
        (io.StringIO("x"), "binary mode"),
        (Path("/nowhere/a.wav"), "No such file"),
    ],
)
def test_files_of_other_kinds_are_refused(file: Any, sentence: str, client: Client) -> None:
    with pytest.raises(InvalidRequestError, match=sentence) as caught:
        client.audio.transcriptions.create(file=file)
    assert caught.value.param == "file"


# ---- the text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.stem)
@pytest.mark.parametrize("options", [{}, {"prompt": "Telephone, menu."}, {"words": True}], ids=["plain", "prompt", "words"])
def test_texts_are_those_of_faster_whisper(client: Client, peer: Any, clip: Path, options: dict[str, Any]) -> None:
    words = options.get("words", False)
    found, info = peer.transcribe(str(clip), initial_prompt=options.get("prompt"), word_timestamps=words)
    expected = list(found)
    assert all(segment.temperature == 0 for segment in expected), "no draw is involved"
    granularities = ["word", "segment"] if words else ["segment"]
    reply = client.audio.transcriptions.create(
        file=clip, response_format="verbose_json", timestamp_granularities=granularities, prompt=options.get("prompt")
    )
    assert reply.text == "".join(segment.text for segment in expected).strip() != ""
    assert reply.language == "english" and reply.duration == info.duration
    assert reply.segments is not None
    assert [s.id for s in reply.segments] == list(range(len(expected)))
    for mine, theirs in zip(reply.segments, expected, strict=True):
        fields = ("seek", "start", "end", "text", "tokens", "temperature")
        assert [getattr(mine, name) for name in fields] == [getattr(theirs, name) for name in fields]
        for name in ("avg_logprob", "compression_ratio", "no_speech_prob"):
            assert getattr(mine, name) == pytest.approx(getattr(theirs, name), rel=1e-4)
    if words:
        spoken = [(w.word.strip(), w.start, w.end) for segment in expected for w in segment.words]
        assert [(w.word, w.start, w.end) for w in reply.words or ()] == spoken
    else:
        assert reply.words is None


def test_every_way_to_give_a_file(client: Client) -> None:
    content = CLIP.read_bytes()
    create = client.audio.transcriptions.create
    for file in (CLIP, content, memoryview(content), ("a.wav", content), ("a.wav", io.BytesIO(content), "audio/wav")):
        reply = create(file=file)
        assert reply.text == SCRIPT
    with CLIP.open("rb") as opened:
        assert create(file=opened).text == SCRIPT
    assert (reply.route, reply.backend) == ("local", "faster_whisper")
    assert reply.usage is not None and (reply.usage.type, reply.usage.seconds) == ("duration", 4)


def test_formats(client: Client) -> None:
    create = client.audio.transcriptions.create
    assert create(file=CLIP, response_format="text") == SCRIPT + "\n"
    segments = create(file=CLIP, response_format="verbose_json").segments
    assert segments is not None and len(segments) == 1
    end = f"00:00:{segments[0].end:06.3f}"
    assert create(file=CLIP, response_format="srt") == f"1\n00:00:00,000 --> {end.replace('.', ',')}\n{SCRIPT}\n\n"
    assert create(file=CLIP, response_format="vtt") == f"WEBVTT\n\n00:00:00.000 --> {end}\n{SCRIPT}\n\n"
    words = create(file=CLIP, response_format="verbose_json", timestamp_granularities=["word"])
    assert words.segments is None and [w.word for w in words.words or ()] == SCRIPT.split()


def test_the_openai_package_reads_our_json(client: Client) -> None:
    audio = pytest.importorskip("openai.types.audio")
    create = client.audio.transcriptions.create

    def sent(reply: Any) -> Any:
        return json.loads(reply.model_dump_json(exclude_none=True))

    assert audio.Transcription.model_validate(sent(create(file=CLIP)), strict=True).usage.seconds == 4
    verbose = create(file=CLIP, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    theirs = audio.TranscriptionVerbose.model_validate(sent(verbose), strict=True)
    assert theirs.segments[0].text.strip() == theirs.text == SCRIPT and theirs.words[-1].end == verbose.words[-1].end
    events = [sent(event) for event in create(file=CLIP, stream=True)]
    for event in events[:-1]:
        audio.TranscriptionTextDeltaEvent.model_validate(event, strict=True)
    done = audio.TranscriptionTextDoneEvent.model_validate(events[-1], strict=True)
    assert done.text == "".join(event["delta"] for event in events[:-1]) == SCRIPT


@pytest.fixture(scope="module")
def long_clip() -> bytes:
    """All clips, with pauses: 12 seconds, three segments, each certain enough that no draw is involved."""
    import numpy as np

    pause = np.zeros(8_000, np.float32)
    return encoded(np.concatenate([part for clip in CLIPS for part in (samples_of(clip), pause)]), "flac", "flac", 16_000)


def test_streams_add_up_to_the_whole(client: Client, long_clip: bytes) -> None:
    whole = client.audio.transcriptions.create(file=long_clip, timeout=100)
    with client.audio.transcriptions.create(file=long_clip, stream=True) as stream:
        *deltas, done = stream
    assert len(deltas) > 1 and {event.type for event in deltas} == {"transcript.text.delta"}
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text == whole.text


async def test_the_async_client_does_the_same(whisper_path: Path) -> None:
    async with AsyncClient(str(whisper_path), threads=2) as client:
        assert (await client.audio.transcriptions.create(file=CLIP)).text == SCRIPT
        events = [event async for event in await client.audio.transcriptions.create(file=CLIP, stream=True)]
        assert events[-1].text == SCRIPT
        with pytest.raises(InvalidRequestError, match="is empty"):
            await client.audio.transcriptions.create(file=b"", stream=True)


def test_what_an_english_model_cannot_do_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="English only") as caught:
        client.audio.transcriptions.create(file=CLIP, language="fr")
    assert caught.value.param == "language"
    with pytest.raises(InvalidRequestError, match="translates nothing"):
        client.audio.translations.create(file=CLIP)
    with pytest.raises(InvalidRequestError, match="writes down speech"):
        client.chat("Hello")
    with pytest.raises(InvalidRequestError, match="does not write down speech"):
        client.audio.transcriptions.create(file=CLIP, model="smollm2")
    with pytest.raises(UnknownModelError):
        client.audio.transcriptions.create(file=CLIP, model="no-such-model")


def test_time_runs_out_and_streams_can_be_closed(client: Client, long_clip: bytes) -> None:
    with pytest.raises(RequestTimeoutError, match=r"not finished within 0\.001"):
        client.audio.transcriptions.create(file=long_clip, timeout=0.001)
    stream = client.audio.transcriptions.create(file=long_clip, stream=True)
    assert next(stream).type == "transcript.text.delta"
    stream.close()
    assert list(stream) == []


def test_closing_the_client_ends_what_runs(whisper_path: Path, long_clip: bytes) -> None:
    client = Client(str(whisper_path), threads=2)
    stream = client.audio.transcriptions.create(file=long_clip, stream=True)
    next(stream)
    client.close()
    with pytest.raises(RequestCancelledError):
        list(stream)


def test_windows_without_speech_can_be_cancelled_too(whisper_path: Path) -> None:
    """From silence no segment ever comes, so that nobody above the library could stop it."""
    import numpy as np

    backend = faster_whisper.FasterWhisperBackend(BackendOptions(str(whisper_path), threads=2))
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise RequestCancelledError("enough")

    request = parse_request(TranscriptionRequest, {"language": "en"})
    _, segments = backend._model(None).run(request, np.zeros(16_000 * 200, np.float32), look)
    with pytest.raises(RequestCancelledError, match="enough"):
        list(segments)
    backend.close()


def test_translations_ask_a_multilingual_model_for_english(whisper_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is handed to the library. The weights of the catalog are English only, so a double stands for a multilingual one."""
    asked: list[dict[str, Any]] = []
    segment = SimpleNamespace(
        seek=0, start=0.0, end=1.0, text=" Good day.", tokens=[1], temperature=0.0, avg_logprob=-0.1, compression_ratio=1.0,
        no_speech_prob=0.0, words=None,
    )  # fmt: skip

    class Double:
        model = SimpleNamespace(is_multilingual=True)
        supported_languages = ("en", "fr")

        def __init__(self, *arguments: Any, **options: Any) -> None:
            pass

        def transcribe(self, samples: Any, **options: Any) -> Any:
            asked.append(options)
            return iter([segment]), SimpleNamespace(language="fr")

    monkeypatch.setattr(faster_whisper, "_watched_class", lambda local: Double)
    with Client(str(whisper_path), threads=2) as client:
        assert client.audio.translations.create(file=CLIP, temperature=0.4, prompt="Bonjour").text == "Good day."
        verbose = client.audio.translations.create(file=CLIP, response_format="verbose_json")
        assert (verbose.language, verbose.task, verbose.duration) == ("english", "translate", 49_968 / 16_000)
        assert client.audio.transcriptions.create(file=CLIP, response_format="verbose_json").language == "french"
        with pytest.raises(InvalidRequestError, match='does not know the language "de"'):
            client.audio.transcriptions.create(file=CLIP, language="de", chunking_strategy="auto")
    assert asked[0] == {"initial_prompt": "Bonjour", "temperature": 0.4, "task": "translate"}
    assert asked[1] == {"initial_prompt": None, "task": "translate"}
    theirs = pytest.importorskip("openai.types.audio").TranslationVerbose
    theirs.model_validate(json.loads(verbose.model_dump_json()), strict=True)


# ---- models and backends -----------------------------------------------------------------------------------------------


def test_the_backend_by_name_knows_speech_only(whisper_path: Path) -> None:
    backend = create("faster_whisper", BackendOptions(str(whisper_path), threads=2))
    with pytest.raises(InvalidRequestError, match="holds no conversation"):
        backend.chat(None)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="continues no text"):
        backend.complete(None)  # type: ignore[arg-type]
    backend.warm_up()
    backend.close()
    with pytest.raises(RequestCancelledError):
        backend.transcribe(parse_request(TranslationRequest, {}), CLIP.read_bytes())


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster_whisper, "installed", lambda: False)
    with Client() as client, pytest.raises(MissingExtraError, match=r"cactus-py\[whisper\]"):
        client.audio.transcriptions.create(file=CLIP)


def test_a_damaged_model_folder_is_an_error(tmp_path: Path, whisper_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in whisper_path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes()[:4_000])
    with Client() as client, pytest.raises(ModelFormatError, match="cannot be loaded"):
        client.audio.transcriptions.create(file=CLIP, model=str(folder))


# ---- the command -------------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    return (stop.value.code, *capsys.readouterr())


def test_transcribe_command(whisper_path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("transcribe", str(CLIP), "--model", str(whisper_path), "--threads", "2")
    assert run(capsys, *words) == (0, SCRIPT + "\n", "")
    status, out, _ = run(capsys, *words, "--json", "--timestamps", "word", "--language", "en")
    assert status == 0 and [word["word"] for word in json.loads(out)["words"]] == SCRIPT.split()
    assert run(capsys, *words, "--format", "vtt")[1].startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert run(capsys, *words, "--timestamps", "word")[0] == 2
    (tmp_path / "no.mp3").write_bytes(b"nothing")
    status, out, err = run(capsys, "transcribe", str(tmp_path / "no.mp3"), "-m", str(whisper_path))
    assert (status, out) == (1, "") and err.startswith("Error: the audio file is damaged")
