"""The sixteen motifs, each a function that draws its whole picture on a plate."""

from training.miniature.scenery import Motif
from training.miniature.subjects.countryside import (
    church,
    cottage,
    haystack,
    orchard,
    parasol,
    poppies,
    train,
    windmill,
)
from training.miniature.subjects.still_lifes import fruit, sunflowers
from training.miniature.subjects.waterside import boat, bridge, cliffs, lighthouse, lilies, poplars

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
