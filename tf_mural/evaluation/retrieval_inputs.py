"""Images with their texts by language, gathered in one reading of the records."""

import dataclasses

from tf_mural.errors import UserError


@dataclasses.dataclass
class Gathered:
    """What a single reading of the records leaves behind: texts stay, images pass through.

    Attributes:
        task: its name, for messages.
        wanted: codes of the languages to keep, or None for all.
        captions_per_image: how many texts of an image in a language to keep, the first ones.
        records: how many were read.
        ids: of the records whose image was handed on.
        texts: {language: (texts, which of those images each describes)}.
        seen: languages, wanted or not.
    """

    task: str
    wanted: list | None = None
    captions_per_image: int | None = None
    records: int = 0
    ids: list = dataclasses.field(default_factory=list)
    texts: dict = dataclasses.field(default_factory=dict)
    seen: set = dataclasses.field(default_factory=set)

    def images(self, records):
        """Yields the image of each record that has a wanted text, and notes the texts.

        Raises:
            UserError: no records, none with an image, or one with several.
        """
        with_image = 0
        for record in records:
            self.records += 1
            if not record.images:
                continue
            if len(record.images) > 1:
                raise UserError(
                    f"record {record.id!r} has {len(record.images)} images: {self.task} expects one"
                )
            with_image += 1
            if self._note(record):
                self.ids.append(record.id)
                yield record.images[0]
        if not with_image:
            what = (
                f"none of the {self.records} records has an image" if self.records else "no records"
            )
            raise UserError(f"{what}: {self.task} needs records of an image and its texts")

    def _note(self, record):
        """Keeps the wanted texts of a record as those of the next image. Returns whether any."""
        counts = {}
        for language, text in record.texts:
            self.seen.add(language)
            if self.wanted is not None and language not in self.wanted:
                continue
            counts[language] = counts.get(language, 0) + 1
            if self.captions_per_image is None or counts[language] <= self.captions_per_image:
                texts, images = self.texts.setdefault(language, ([], []))
                texts.append(text)
                images.append(len(self.ids))
        return bool(counts)

    def languages(self):
        """The languages to score, each with texts, once all images have passed.

        Raises:
            UserError: one has no text.
        """
        languages = sorted(self.seen) if self.wanted is None else list(dict.fromkeys(self.wanted))
        missing = [language for language in languages if language not in self.texts]
        if missing or not languages:
            known = ", ".join(sorted(self.seen)) or "none at all"
            raise UserError(
                f"no image has a text in {', '.join(missing) or 'any language'}; "
                f"the records' languages: {known}"
            )
        return languages
