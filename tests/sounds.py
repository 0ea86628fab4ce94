"""Speech and music with labels, as inaSpeechSegmenter's network for telling them apart sees sound.

The sounds are those of a telephone exchange: what it says, in the voices of a woman (English) and a
man (Italian), and what it plays to those who wait. Which is which, the packages say. Nothing
says that the network's own training, which was others' work, had any of these.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from materials import CACHE, debian, package

VOICES = {"en": "en_US_f_Allison", "it": "it_IT_m_Carlo"}
RATE = 16_000
FRAMES, BANDS = 68, 21
"""What the network looks at: 0.7 s, and the lower 21 of 24 bands."""


def rows() -> Path:
    """A CSV: `label` (0: speech, 1: music), then FRAMES x BANDS columns."""
    out = CACHE / "speech_and_music.csv"
    if not out.exists():
        folders = [
            debian(f"asterisk-core-sounds-{language}-g722") / "usr/share/asterisk/sounds" / voice
            for language, voice in VOICES.items()
        ]
        folders.append(debian("asterisk-moh-opsound-g722") / "usr/share/asterisk/moh")
        parts = []
        for folder in folders:
            for path in sorted(folder.glob("*.g722")):
                seen = windows(sound(path))
                label = np.full((len(seen), 1), folder.name == "moh")
                parts.append(np.hstack([label, seen]))
        scratch = CACHE / f".{out.name}"
        columns = ",".join(["label", *(f"x{i}" for i in range(FRAMES * BANDS))])
        form = ["%d"] + ["%.4f"] * FRAMES * BANDS
        np.savetxt(scratch, np.vstack(parts), form, ",", header=columns, comments="")
        scratch.rename(out)
    return out


def sound(path: Path) -> np.ndarray:
    """The samples of a file in ITU's G.722 at 64 kbit/s, 16,000 a second."""
    folder = str(package("g722==1.2.8"))
    if folder not in sys.path:
        sys.path.append(folder)
    import G722

    return np.array(G722.G722(RATE, 64_000).decode(path.read_bytes()), np.float32) / 32_768


def windows(samples: np.ndarray) -> np.ndarray:
    """Standardized spectrograms, one after the other, where it is loud enough to tell.

    The features are the network's own (`sidekit_mfcc.py` and `segmenter.py` in its package): log
    energies in triangular mel bands of 25 ms every 10 ms, each window at mean 0 and deviation 1.

    Returns:
        Shape (n, FRAMES * BANDS).
    """
    if samples.size < RATE * FRAMES // 95:
        return np.zeros((0, FRAMES * BANDS))
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160]
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = frames - 0.97 * before
    power = np.abs(np.fft.rfft(frames * np.hanning(400), 512)) ** 2
    with np.errstate(divide="ignore"):
        loud = np.log((frames**2).sum(axis=1))
        bands = np.log(power @ mel(24).T)[:, :BANDS]
    loud = loud > loud[np.isfinite(loud)].mean() + np.log(0.03)
    found = []
    for start in range(0, len(bands) - FRAMES + 1, FRAMES):
        window = bands[start : start + FRAMES].reshape(-1)
        if loud[start : start + FRAMES].mean() >= 0.9 and np.isfinite(window).all():
            found.append((window - window.mean()) / window.std())
    return np.reshape(found, (-1, FRAMES * BANDS))


def mel(count: int) -> np.ndarray:
    """Triangles of equal area, evenly from 100 to 8000 Hz on the mel scale: (count, 257)."""
    low, high = 2595 * np.log10(1 + np.array([100, 8000]) / 700)
    edges = 700 * (10 ** (np.linspace(low, high, count + 2) / 2595) - 1)
    left, middle, right = (edges[i : i + count, None] for i in range(3))
    hertz = np.arange(257) * RATE / 512
    rise, fall = (hertz - left) / (middle - left), (right - hertz) / (right - middle)
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (right - left)
