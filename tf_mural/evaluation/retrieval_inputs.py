"""Collects the images of records and their texts by language in a single pass."""

import dataclasses

from tf_mural.errors import UserError


@dataclasses.dataclass
class RetrievalInputs:
    """Collects the texts of records while their images are streamed to an embedder.

    Attributes:
        task: Name of the task, for error messages.
        languages: Codes of the languages to keep, or None for all.
        captions_per_image: Maximum number of texts per image and language, or None for all. The
            first texts are kept.
        num_records: Number of records read.
        ids: Ids of the records whose image was yielded.
        texts: {language: (texts, indices of the yielded images that the texts describe)}.
        seen_languages: All languages of the records, also languages that are not kept.
    """

    task: str
    languages: list | None = None
    captions_per_image: int | None = None
    num_records: int = 0
    ids: list = dataclasses.field(default_factory=list)
    texts: dict = dataclasses.field(default_factory=dict)
    seen_languages: set = dataclasses.field(default_factory=set)

    def stream_images(self, records):
        """Yields the image of each record that has a text to keep, and collects the texts.

        Raises:
            UserError: There are no records, no record has an image, or a record has several
                images.
        """
        num_with_image = 0
        for record in records:
            self.num_records += 1
            if not record.images:
                continue
            if len(record.images) > 1:
                raise UserError(
                    f"record {record.id!r} has {len(record.images)} images: {self.task} expects one"
                )
            num_with_image += 1
            if self._collect_texts(record):
                self.ids.append(record.id)
                yield record.images[0]
        if not num_with_image:
            problem = (
                f"none of the {self.num_records} records has an image"
                if self.num_records
                else "no records"
            )
            raise UserError(f"{problem}: {self.task} needs records with an image and texts")

    def _collect_texts(self, record):
        """Stores the texts of a record that are kept; returns whether the record has such texts."""
        counts = {}
        for language, text in record.texts:
            self.seen_languages.add(language)
            if self.languages is not None and language not in self.languages:
                continue
            counts[language] = counts.get(language, 0) + 1
            if self.captions_per_image is None or counts[language] <= self.captions_per_image:
                texts, image_indices = self.texts.setdefault(language, ([], []))
                texts.append(text)
                image_indices.append(len(self.ids))
        return bool(counts)

    def scored_languages(self):
        """Returns the languages to score; call this after `stream_images` has yielded all images.

        Raises:
            UserError: A language has no text.
        """
        if self.languages is None:
            languages = sorted(self.seen_languages)
        else:
            languages = list(dict.fromkeys(self.languages))
        missing = [language for language in languages if language not in self.texts]
        if missing or not languages:
            available = ", ".join(sorted(self.seen_languages)) or "none"
            raise UserError(
                f"no image has a text in {', '.join(missing) or 'any language'}; "
                f"languages of the records: {available}"
            )
        return languages
