"""Zero-shot classification: the class whose prompts are nearest to an image, by cosine.

Protocol zero_shot/v1. Per language: each class is one vector, the mean of the unit embeddings of
its prompts, of length 1 again; an image is a hit at k if fewer than k other classes score at least
as high as its own. Ties count as misses. Classes without a prompt in a language are left out there,
with their images: such a language is scored on fewer classes, `counts` says on how many, and it
takes no part in the mean of a group.
"""

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics
from tf_mural.evaluation.labelled import embed_labelled
from tf_mural.evaluation.prompts import class_embeddings, describe
from tf_mural.evaluation.results import Result

PROTOCOL = "zero_shot/v1"

# Of the paper's Tables 2 and 14.
GROUPS = {
    "all": (
        "af am ar az be bg bn ca ceb cs cy da de el en eo es et eu fa fi fr fy ga gd gl ha he hi "
        "hr hu hy id ig is it ja jv ka kk km ko la lb lt lv mg mk ml mr ms my ne nl no or pl pt "
        "ro ru sd si sk sl so sq sr su sv sw ta tl tr tt uk ur uz vi xh yi yo zh zu"
    ).split(),
    "well_resourced": ["en", "de", "fr", "cs", "ja", "zh", "ru", "pl", "tr"],
    "under_resourced": ["uz", "ga", "be", "mg", "ceb"],
}
_KS = {"top1": 1, "top5": 5}


def run(embed, records, prompts, languages=None, groups=None, cache=None, model_id=None):
    """Scores classification of labelled images by prompts. Images are embedded once.

    Args:
        embed: see `retrieval.run`.
        records: iterable of Record, each one image and a label; read once.
        prompts: {language: sequence, by label, of sequences of strings}, empty ones where a class
            has none; such as what `tf_mural.evaluation.prompts` gives.
        languages: codes to score; all of the prompts by default.
        groups: {name: languages} to average over; `GROUPS` by default.
        cache: folder to keep the embeddings of classes in, by content, or None.
        model_id: says which weights `embed` has; has to be given with a cache.

    Returns:
        Result. values: {language: {"top1", "top5", "chance"}, "groups": {group: {"top1", "top5"}}}
        in percent; "chance" is 100 / classes; "top5" is left out of up to 5 classes. A group is
        there if all its languages were scored on all classes. intervals: the same without
        "chance", 95 %, by bootstrap over the images. counts:
            "images": embedded;
            "languages": {language: those of `prompts.describe`, and "images" scored};
            "lacking": {language: what the prompts say it lacks};
            "groups": {group: {"languages", "missing": those not scored, "partial": those that lack
            classes}}.

    Raises:
        UserError: no records, one without an image or a label, an image that cannot be read, a
            language without prompts, a label that the prompts do not know, languages with
            different numbers of classes, embeddings that are not finite.
    """
    languages, classes = _languages(prompts, languages)
    (images,) = embed_labelled(embed, records, "zero_shot")
    unknown = np.flatnonzero(images.labels >= classes)
    if unknown.size:
        raise UserError(
            f"record {images.ids[unknown[0]]!r} has label {images.labels[unknown[0]]}, but the "
            f"prompts have {classes} classes, from 0 to {classes - 1}: expected prompts of the "
            "records' own classes, in their order"
        )
    lacking = dict(getattr(prompts, "lacking", {}))
    counts = {"images": len(images.ids), "languages": {}, "lacking": lacking, "groups": {}}
    result = Result("zero_shot", PROTOCOL, {}, counts)
    means = _Means(GROUPS if groups is None else groups, len(images.ids))
    for language in languages:
        ranks, count = _ranks(embed, images, prompts[language], language, cache, model_id)
        counts["languages"][language] = count
        result.values[language], result.intervals[language] = _score(ranks, count["classes"])
        result.values[language]["chance"] = 100.0 / count["classes"]
        means.add(language, ranks, whole=not count["missing_classes"])
    result.values["groups"], result.intervals["groups"] = {}, {}
    for name in means.groups:
        counts["groups"][name] = means.count(name)
        if means.is_whole(name):
            scores = means.score(name, classes)
            result.values["groups"][name], result.intervals["groups"][name] = scores
    return result


def _languages(prompts, wanted):
    """The languages to score, and the number of classes that they all have."""
    languages = sorted(prompts) if wanted is None else list(dict.fromkeys(wanted))
    missing = [language for language in languages if language not in prompts]
    if missing or not languages:
        lacking = getattr(prompts, "lacking", {})
        why = "; ".join(f"{one} lacks {lacking[one]}" for one in missing if one in lacking)
        raise UserError(
            f"no prompts in {', '.join(missing) or 'any language'}{why and f' ({why})'}; there are "
            f"prompts in: {', '.join(sorted(prompts)) or 'none at all'}"
        )
    first, *others = languages
    for other in others:
        if len(prompts[other]) != len(prompts[first]):
            raise UserError(
                f"the prompts have {len(prompts[first])} classes in {first!r} and "
                f"{len(prompts[other])} in {other!r}: expected one number, an empty entry for a "
                "class without a prompt"
            )
    return languages, len(prompts[first])


def _ranks(embed, images, prompts, language, cache, model_id):
    """(wrong classes that score as high as the right one, by image; what was scored).

    Only of the images whose class has a prompt.
    """
    prompts = [tuple(of_class) for of_class in prompts]  # filled once, and not for every reader
    count = describe(prompts)
    try:
        vectors, labels = class_embeddings(embed, prompts, cache, model_id)
        known = np.isin(images.labels, labels)
        if not known.any():
            raise UserError("no image is of a class that has a prompt")
        rows = images.rows if known.all() else images.rows[known]
        ranks = metrics.retrieval_ranks(rows, vectors, images.labels[known], labels)
    except UserError as error:
        raise UserError(f"zero_shot in {language!r}: {error}") from error
    return ranks, count | {"images": len(ranks)}


def _score(ranks, classes):
    """(values, intervals) of a language."""
    hits = {name: 100.0 * (ranks < k) for name, k in _KS.items() if k == 1 or k < classes}
    values = {name: float(hit.mean()) for name, hit in hits.items()}
    return values, {name: metrics.mean_interval(hit) for name, hit in hits.items()}


class _Means:
    """Sums hits over the languages of each group, image by image, for the mean and its interval."""

    def __init__(self, groups, images):
        self.groups = {name: list(dict.fromkeys(groups[name])) for name in groups}
        self._whole, self._partial = set(), set()
        self._sums = {name: {key: np.zeros(images, np.int32) for key in _KS} for name in groups}

    def add(self, language, ranks, whole):
        """Takes the ranks of a language; `whole` if all classes have prompts."""
        (self._whole if whole else self._partial).add(language)
        for name, languages in self.groups.items():
            if whole and language in languages:
                for key, k in _KS.items():
                    self._sums[name][key] += ranks < k

    def count(self, name):
        """What of a group was scored."""
        scored = self._whole | self._partial
        return {
            "languages": len(self.groups[name]),
            "missing": [one for one in self.groups[name] if one not in scored],
            "partial": [one for one in self.groups[name] if one in self._partial],
        }

    def is_whole(self, name):
        """Whether all languages of a group were scored on all classes."""
        return bool(self.groups[name]) and set(self.groups[name]) <= self._whole

    def score(self, name, classes):
        """(values, intervals) of a group that is whole."""
        keys = [key for key, k in _KS.items() if k == 1 or k < classes]
        hits = {key: 100.0 * self._sums[name][key] / len(self.groups[name]) for key in keys}
        values = {key: float(hit.mean()) for key, hit in hits.items()}
        return values, {key: metrics.mean_interval(hit) for key, hit in hits.items()}
