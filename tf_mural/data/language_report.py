"""Statistics of the languages of a run: passes over the texts, and the texts that are cut."""

import contextlib
import time

import numpy as np

from tf_mural.data.records import DamagedRecord, deserialize

TEXTS_PER_LANGUAGE = 200  # maximum number of texts of each source and language that are tokenized
_LISTED = 5  # number of languages that a line lists


class LanguageReport:
    """Counts how often the texts of each language are drawn, and how many of them are cut.

    A pass over a language visits each record with a text in this language once. The number of
    passes is the number of drawn texts divided by the number of records.

    Args:
        samplers: {source: `IndexSampler`}; sources without text fields are left out.
        batch_size: number of draws per step and source.
    """

    def __init__(self, samplers, batch_size):
        self._samplers = {name: s for name, s in samplers.items() if s.text_fields}
        self._batch_size = batch_size

    def passes(self, step):
        """Returns {source: {language: number of passes by the end of `step` steps}}."""
        result = {}
        for name, sampler in self._samplers.items():
            records, draws = sampler.language_records, step * self._batch_size
            drawn = sampler.language_draws(draws)
            result[name] = {code: drawn[code] / n for code, n in records.items() if n}
        return result

    def metrics(self, step):
        """Returns {"passes/<source>/<language>": number of passes}, for logs."""
        return {
            f"passes/{name}/{code}": value
            for name, passes in self.passes(step).items()
            for code, value in passes.items()
        }

    def warnings(self, steps):
        """Returns a line for each source with several languages.

        A line lists the five languages with the most passes after `steps` steps, to which a model
        overfits first, and the five languages with the fewest records.
        """
        lines = []
        for name, passes in self.passes(steps).items():
            if len(passes) < 2:
                continue
            records = self._samplers[name].language_records
            most = sorted(passes, key=passes.get, reverse=True)[:_LISTED]
            fewest = sorted(passes, key=records.get)[:_LISTED]
            lines.append(
                f"languages of the source {name}, after {steps} steps: most passes over the texts "
                f"{', '.join(f'{c} {passes[c]:.3g}' for c in most)}; fewest texts "
                f"{', '.join(f'{c} {records[c]:,}' for c in fewest)}"
            )
        return lines

    def cut_texts(self, tokenizer):
        """Returns {language: (share of the texts that are cut, number of tokenized texts)}.

        A text is cut if it has more than `tokenizer.max_tokens` tokens. Up to `TEXTS_PER_LANGUAGE`
        records of each source and language, chosen at random, are read. Damaged records are left
        out.

        Args:
            tokenizer: `Tokenizer`.
        """
        texts, codes = [], []
        for sampler in self._samplers.values():
            for code, text in _sample_texts(sampler):
                codes.append(code)
                texts.append(text)
        if not texts:
            return {}
        # The tokens of an empty text are special tokens, or those of a prefix.
        reserved = int(np.sum(np.asarray(tokenizer([""])) != tokenizer.pad_id))
        lengths = np.asarray(tokenizer.pieces(np.array(texts, object)).row_lengths())
        is_cut, codes = lengths + reserved > tokenizer.max_tokens, np.array(codes)
        return {
            str(code): (float(is_cut[codes == code].mean()), int((codes == code).sum()))
            for code in np.unique(codes)
        }

    def cut_texts_line(self, tokenizer):
        """Returns the result of `cut_texts` as a line for the terminal, or "" without texts."""
        start = time.perf_counter()
        shares = self.cut_texts(tokenizer)
        if not shares:
            return ""
        cut = sorted((c for c, (s, _) in shares.items() if s), key=lambda c: -shares[c][0])
        listed = ", ".join(f"{code} {shares[code][0]:.1%}" for code in cut) or "none"
        count = sum(number for _, number in shares.values())
        return (
            f"texts that max_tokens={tokenizer.max_tokens} cuts: {listed} (languages with such "
            f"texts, in a sample of {count:,} texts in {len(shares)} languages; "
            f"{time.perf_counter() - start:.1f} s)"
        )


def _sample_texts(sampler):
    """Yields (language, text) of up to `TEXTS_PER_LANGUAGE` records of each language."""
    generator = np.random.default_rng(0)
    for code in sampler.languages:
        members = [
            (record_set, index)
            for number, record_set in enumerate(sampler.sets)
            if code in record_set.languages
            for index in _choose(sampler.records_with(number, code), generator)
        ]
        for position in generator.permutation(len(members))[:TEXTS_PER_LANGUAGE]:
            record_set, index = members[position]
            with contextlib.suppress(DamagedRecord, ValueError):
                record = deserialize(record_set.read([index], verify=True)[0])
                texts = [text for language, text in record.texts if language == code]
                if texts:
                    yield code, texts[0]


def _choose(indices, generator):
    return generator.permutation(indices)[:TEXTS_PER_LANGUAGE].tolist()
