"""The sixteen motifs, each a function that draws its whole picture on a plate."""

from tools.miniature.scenery import Motif
from tools.miniature.subjects.countryside import (
    church,
    cottage,
    haystack,
    orchard,
    parasol,
    poppies,
    train,
    windmill,
)
from tools.miniature.subjects.still_lifes import fruit, sunflowers
from tools.miniature.subjects.waterside import boat, bridge, cliffs, lighthouse, lilies, poplars

MOTIF: dict[str, Motif] = {
    "boat": boat,
    "haystack": haystack,
    "poplars": poplars,
    "cottage": cottage,
    "lilies": lilies,
    "poppies": poppies,
    "bridge": bridge,
    "church": church,
    "windmill": windmill,
    "cliffs": cliffs,
    "train": train,
    "lighthouse": lighthouse,
    "orchard": orchard,
    "sunflowers": sunflowers,
    "fruit": fruit,
    "parasol": parasol,
}
INDOORS = ("sunflowers", "fruit")
