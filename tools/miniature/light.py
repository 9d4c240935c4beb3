"""The six lights: the sky that each one brings, and how it colours everything under it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Colour = tuple[float, float, float]

SNOW = "#f6f8fc"
LAMP = "#ffd15e"


@dataclass(frozen=True)
class Light:
    """How one hour or weather colours the world."""

    sky: tuple[str, str, str]  # Zenith, middle, horizon.
    tint: Colour  # Each local colour is multiplied by this,
    wash: str  # then mixed towards this colour,
    wash_share: float  # by this much.
    haze: str  # Far things fade into this.
    shade: str  # Shadows fall towards this.
    cloud: str
    disc: str = ""  # Sun or moon colour; empty where it is hidden.
    radius: float = 0.0


LIGHT: dict[str, Light] = {
    "dawn": Light(
        sky=("#8e8cc9", "#dda3c8", "#fde0cf"),
        tint=(1.0, 0.84, 0.92),
        wash="#e0a2c0",
        wash_share=0.27,
        haze="#e3b5cd",
        shade="#7d6bb0",
        cloud="#f3c6d2",
        disc="#fff3d2",
        radius=12,
    ),
    "noon": Light(
        sky=("#2f83dc", "#6db6f2", "#cdeaf8"),
        tint=(1.04, 1.04, 0.98),
        wash="#ffffff",
        wash_share=0.0,
        haze="#a9d2ec",
        shade="#3d5fa8",
        cloud="#ffffff",
        disc="#fff4a8",
        radius=10,
    ),
    "sunset": Light(
        sky=("#6a2763", "#e04e32", "#ffb545"),
        tint=(1.0, 0.68, 0.56),
        wash="#c8452c",
        wash_share=0.16,
        haze="#d9623c",
        shade="#5a2160",
        cloud="#a63a56",
        disc="#fff0a0",
        radius=23,
    ),
    "night": Light(
        sky=("#0c1548", "#1b3380", "#4166ae"),
        tint=(0.6, 0.68, 0.92),
        wash="#1c3a86",
        wash_share=0.18,
        haze="#29458a",
        shade="#0f1850",
        cloud="#3b579f",
        disc="#fbf3cb",
        radius=13,
    ),
    "clouds": Light(
        sky=("#76868a", "#9aaaa6", "#c3ccbf"),
        tint=(0.82, 0.87, 0.82),
        wash="#87958c",
        wash_share=0.22,
        haze="#9daba2",
        shade="#3f5866",
        cloud="#dde1d8",
    ),
    "snow": Light(
        sky=("#93a9ca", "#b9cbe0", "#e2e9f2"),
        tint=(0.96, 0.97, 1.0),
        wash="#d6dfec",
        wash_share=0.2,
        haze="#cfd9e6",
        shade="#8296bd",
        cloud="#f3f6f9",
    ),
}


def rgb(colour: str) -> Colour:
    red, green, blue = bytes.fromhex(colour[1:])
    return red / 255, green / 255, blue / 255


def hexed(channels: Iterable[float]) -> str:
    return "#" + "".join(f"{round(255 * min(1.0, max(0.0, c))):02x}" for c in channels)


def mix(a: str, b: str, share: float) -> str:
    """The colour that is `share` of the way from a to b."""
    return hexed(x + (y - x) * share for x, y in zip(rgb(a), rgb(b), strict=True))


def lit(local: str, look: Light, depth: float = 0.0, shade: float = 0.0) -> str:
    """A local colour as it looks under a light: tinted, washed, in shadow by `shade`, hazed by `depth`."""
    tinted = hexed(c * t for c, t in zip(rgb(local), look.tint, strict=True))
    washed = mix(tinted, look.wash, look.wash_share)
    return mix(mix(washed, look.shade, shade), look.haze, depth)
