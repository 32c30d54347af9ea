"""What a release says of people and unsafe content: who looked, what was found, what was made unrecognisable."""

from pydantic import Field

from conf import Section


class DetectorRecord(Section):
    """A detector that looked at every image."""

    name: str
    version: str
    licence: str
    digest: str = Field(pattern="^[0-9a-f]{64}$")  # of its weights and settings
    labels: list[str]  # what it can find


class Blurred(Section):
    """What was made unrecognisable."""

    labels: list[str]
    images: int = Field(ge=0)
    regions: int = Field(ge=0)


class Nsfw(Section):
    """The NSFW scores of the released images."""

    threshold: float | None  # from which the recipe drops an image; null: it drops none
    highest: float | None  # null: no image has a score


class Safety(Section):
    """Which detectors looked and what came of it. Null says that nobody looked, which is not zero."""

    detectors: dict[str, DetectorRecord] = {}  # by the name that the recipe gives them
    blurred: Blurred | None = None
    nsfw: Nsfw | None = None

    def that_find(self, label: str) -> dict[str, DetectorRecord]:
        """The detectors that look for ``label``."""
        return {name: detector for name, detector in self.detectors.items() if label in detector.labels}

    def statement(self) -> str:
        """The same in sentences, for a reader of the data card."""
        return f"{self._of_people()} {self._of_unsafe_content()}"

    def _of_people(self) -> str:
        looked = self.that_find("face")
        if not looked:
            return "Faces: not evaluated, no detector looked for them."
        if self.blurred is None or "face" not in self.blurred.labels:
            return f"Faces: {_named(looked)} looked for them; the recipe does not blur them."
        b = self.blurred
        return (
            f"Faces: {_named(looked)} looked for them; {b.regions} regions in {b.images} images were blurred "
            f"({', '.join(b.labels)}), and the same detectors found none in the blurred images. "
            "A detector misses some."
        )

    def _of_unsafe_content(self) -> str:
        looked = self.that_find("nsfw")
        if not looked or self.nsfw is None:
            return "Unsafe content: not evaluated, no detector looked for it."
        if self.nsfw.threshold is None:
            return f"Unsafe content: scored by {_named(looked)}; the recipe drops none for it."
        return (
            f"Unsafe content: images with a score of {self.nsfw.threshold:g} or more by {_named(looked)} were dropped."
        )


def _named(detectors: dict[str, DetectorRecord]) -> str:
    return " and ".join(f"{d.name} {d.version} ({d.licence})" for _, d in sorted(detectors.items()))
