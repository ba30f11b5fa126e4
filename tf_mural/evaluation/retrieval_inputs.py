"""Collects the images of records and their texts by language in a single pass.

By default, records whose images have the same bytes are merged into one candidate with the texts of
all these records. A copy of the correct image therefore never counts as an error, and a perfect
encoder reaches a recall of 100 % on records with one text each.
"""

import dataclasses
import hashlib

from tf_mural import languages as language_codes
from tf_mural.errors import UserError


@dataclasses.dataclass
class RetrievalInputs:
    """Collects the texts of records while their images are streamed to an embedder.

    Attributes:
        task: Name of the task, for error messages.
        languages: Codes or names of the languages to keep, or None for all.
        captions_per_image: Maximum number of texts per image and language, or None for all. The
            first texts are kept.
        merge: Whether records whose images have the same bytes are merged.
        num_records: Number of records read.
        ids: Ids of the records whose image was yielded.
        merged: Number of records whose image was yielded for an earlier record.
        texts: {language: (texts, indices of the yielded images that the texts describe)}.
        seen_languages: All languages of the records, including languages that are not kept.
    """

    task: str
    languages: list | None = None
    captions_per_image: int | None = None
    merge: bool = True
    num_records: int = 0
    ids: list = dataclasses.field(default_factory=list)
    merged: int = 0
    texts: dict = dataclasses.field(default_factory=dict)
    seen_languages: set = dataclasses.field(default_factory=set)
    _images: dict = dataclasses.field(default_factory=dict)
    _counts: dict = dataclasses.field(default_factory=dict)

    def stream_images(self, records):
        """Yields each image that has a text in `languages` once, and collects the texts.

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
            digest = hashlib.blake2b(record.images[0], digest_size=16).digest()
            position = self._images.get(digest) if self.merge else None
            position = len(self.ids) if position is None else position
            if not self._collect_texts(record, position):
                continue
            if position < len(self.ids):
                self.merged += 1
                continue
            self._images[digest] = position
            self.ids.append(record.id)
            yield record.images[0]
        if not num_with_image:
            problem = (
                f"none of the {self.num_records} records has an image"
                if self.num_records
                else "no records"
            )
            raise UserError(f"{problem}: {self.task} needs records with an image and texts")

    def _collect_texts(self, record, position):
        """Stores the texts of a record that are kept; returns whether the record has such texts."""
        is_kept = False
        for language, text in record.texts:
            self.seen_languages.add(language)
            if self.languages is not None and not self._is_chosen(language):
                continue
            is_kept = True
            if self.captions_per_image is not None:
                count = self._counts.get((position, language), 0)
                self._counts[position, language] = count + 1
                if count >= self.captions_per_image:
                    continue
            texts, image_indices = self.texts.setdefault(language, ([], []))
            texts.append(text)
            image_indices.append(position)
        return is_kept

    def _is_chosen(self, language):
        return any(language_codes.match_code(code, (language,)) for code in self.languages)

    def scored_languages(self):
        """Returns the languages to score; call this after `stream_images` has yielded all images.

        Raises:
            UserError: A language has no text.
        """
        if self.languages is None:
            languages = sorted(self.seen_languages)
        else:
            seen = sorted(self.seen_languages)
            matches = (language_codes.match_code(code, seen) or code for code in self.languages)
            languages = list(dict.fromkeys(matches))
        missing = [language for language in languages if language not in self.texts]
        if missing or not languages:
            available = ", ".join(sorted(self.seen_languages)) or "none"
            raise UserError(
                f"no image has a text in {', '.join(missing) or 'any language'}; "
                f"languages of the records: {available}"
            )
        return languages
