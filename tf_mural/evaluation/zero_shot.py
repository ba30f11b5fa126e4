"""Zero-shot classification of images by the class whose prompts are nearest, by cosine similarity.

Protocol zero_shot/v1. For each language, the embedding of a class is the normalized mean of the
unit embeddings of its prompts. An image is a hit at k if fewer than k wrong classes score at least
as high as the correct class; ties count as misses. If a class has no prompt in a language, the
class and its images are left out for that language. The means of groups with such a language are
not reported; `counts` lists the language as "partial".

Protocol zero_shot/argmax is that of Babel-ImageNet and CLIP_benchmark: the predicted class is the
one with the highest score, and the class with the lowest label if several have this score. "top1"
is the accuracy over the images, "class_recall" the mean of the accuracies of the classes. If two
classes have the same name in a language, all their images are assigned to the first one.
"""

import numpy as np

from tf_mural.errors import UserError
from tf_mural.evaluation import metrics, protocols
from tf_mural.evaluation.labelled import embed_labelled
from tf_mural.evaluation.prompts import class_embeddings, count_prompts
from tf_mural.evaluation.results import Result
from tf_mural.languages import match_code

PROTOCOL = "zero_shot/v1"

# Language groups of Tables 2 and 14 of the paper.
GROUPS = {
    "all": (
        "af am ar az be bg bn ca ceb cs cy da de el en eo es et eu fa fi fr fy ga gd gl ha he hi "
        "hr hu hy id ig is it ja jv ka kk km ko la lb lt lv mg mk ml mr ms my ne nl no or pl pt "
        "ro ru sd si sk sl so sq sr su sv sw ta tl tr tt uk ur uz vi xh yi yo zh zu"
    ).split(),
    "well_resourced": ["en", "de", "fr", "cs", "ja", "zh", "ru", "pl", "tr"],
    "under_resourced": ["uz", "ga", "be", "mg", "ceb"],
}
_TOP_K = {"top1": 1, "top5": 5}


def run(
    embedder,
    records,
    prompts,
    languages=None,
    groups=None,
    cache_dir=None,
    model_id=None,
    protocol=None,
    prompt_set=None,
):
    """Evaluates classification of labelled images by prompts. Images are embedded once.

    Args:
        embedder: See `retrieval.run`.
        records: Iterable of Record with one image and a label, consumed once.
        prompts: {language: sequence with the prompts of each class, in the order of the labels}.
            The prompts of a class are a sequence of strings, which is empty for a class without
            prompts. `tf_mural.evaluation.prompts` reads and creates such prompts.
        languages: Codes of the languages to score. Default: all languages of the prompts.
        groups: {name of a group: its languages}, over which scores are averaged. Default: `GROUPS`.
        cache_dir: Folder in which class embeddings are cached by content, or None.
        model_id: String that identifies the weights of `embedder`; required with `cache_dir`.
        protocol: "v1" or "argmax". Default: "v1".
        prompt_set: Name of the variant of the prompts (see `prompts.read`), which becomes part of
            the protocol id. Default: the prompts as they are.

    Returns:
        Result. values: {language: {"top1", "top5", "chance"}, "groups": {group: {"top1", "top5"}}}
        in percent; the protocol "argmax" has "class_recall" instead of "top5", and no groups;
        "chance" is 100 divided by the number of classes; "top5" is omitted for 5 classes or fewer.
        A group is reported if all its languages were scored on all classes.
        intervals: the 95 % intervals of values except "chance", by bootstrap over the images.
        counts:
            "images": number of embedded images;
            "languages": {language: result of `prompts.count_prompts`, and "images", the number of
            scored images};
            "lacking": {language: the part that the prompts lack};
            "groups": {group: {"languages": number of languages, "missing": languages that were not
            scored, "partial": languages without prompts for some classes}}.

    Raises:
        UserError: There are no records, a record has no label or not exactly one image, an image
            cannot be decoded, a language has no prompts, a label has no class in the prompts,
            languages have different numbers of classes, or embeddings are not finite.
    """
    id = protocols.protocol_id("zero_shot", protocol, prompt_set=prompt_set)
    languages, num_classes = _requested_languages(prompts, languages)
    (images,) = embed_labelled(embedder, records, "zero_shot")
    unknown = np.flatnonzero(images.labels >= num_classes)
    if unknown.size:
        raise UserError(
            f"record {images.ids[unknown[0]]!r} has label {images.labels[unknown[0]]}, but the "
            f"prompts have {num_classes} classes, from 0 to {num_classes - 1}: expected prompts "
            "for the classes of the records, in the same order"
        )
    lacking = dict(getattr(prompts, "lacking", {}))
    counts = {"images": len(images.ids), "languages": {}, "lacking": lacking, "groups": {}}
    result = Result("zero_shot", id, {}, counts)
    if protocol == "argmax":
        for language in languages:
            arguments = images, prompts[language], language, cache_dir, model_id
            predicted, labels, counts["languages"][language] = _predict(embedder, *arguments)
            scores = _score_predictions(predicted, labels)
            result.values[language], result.intervals[language] = scores
            result.items[language] = {"top1": _items(predicted == labels)}
            result.values[language]["chance"] = 100.0 / counts["languages"][language]["classes"]
        return result
    averages = _GroupAverages(GROUPS if groups is None else groups, len(images.ids))
    for language in languages:
        ranks, count = _rank(embedder, images, prompts[language], language, cache_dir, model_id)
        counts["languages"][language] = count
        result.values[language], result.intervals[language] = _score(ranks, count["classes"])
        result.values[language]["chance"] = 100.0 / count["classes"]
        result.items[language] = {"top1": _items(ranks < 1)}
        averages.add(language, ranks, is_complete=not count["missing_classes"])
    result.values["groups"], result.intervals["groups"] = {}, {}
    for name in averages.groups:
        counts["groups"][name] = averages.count(name)
        if averages.is_complete(name):
            scores = averages.score(name, num_classes)
            result.values["groups"][name], result.intervals["groups"][name] = scores
    return result


def _requested_languages(prompts, languages):
    """Returns (languages to score, number of classes); checks that all languages have prompts."""
    if languages is None:
        languages = sorted(prompts)
    else:
        matches = (match_code(language, prompts) or language for language in languages)
        languages = list(dict.fromkeys(matches))
    missing = [language for language in languages if language not in prompts]
    if missing or not languages:
        lacking = getattr(prompts, "lacking", {})
        reasons = "; ".join(f"{code} lacks {lacking[code]}" for code in missing if code in lacking)
        raise UserError(
            f"no prompts in {', '.join(missing) or 'any language'}{reasons and f' ({reasons})'}; "
            f"languages with prompts: {', '.join(sorted(prompts)) or 'none'}"
        )
    first, *others = languages
    for other in others:
        if len(prompts[other]) != len(prompts[first]):
            raise UserError(
                f"the prompts have {len(prompts[first])} classes in {first!r} and "
                f"{len(prompts[other])} in {other!r}: expected the same number, with an empty "
                "entry for a class without a prompt"
            )
    return languages, len(prompts[first])


def _embed_classes(embedder, images, prompts, cache_dir, model_id):
    """Embeds the classes that have a prompt.

    Returns:
        Tuple (embeddings of the images of these classes, float32 (n, d); their labels (n,);
        embeddings of the classes, float32 (c, d); their labels (c,); counts).
    """
    # The prompts are copied, because each access fills the templates again.
    prompts = [tuple(class_prompts) for class_prompts in prompts]
    count = count_prompts(prompts)
    classes, labels = class_embeddings(embedder, prompts, cache_dir, model_id)
    has_prompt = np.isin(images.labels, labels)
    if not has_prompt.any():
        raise UserError("no image is of a class that has a prompt")
    embeddings = images.embeddings if has_prompt.all() else images.embeddings[has_prompt]
    count |= {"images": len(embeddings)}
    return embeddings, images.labels[has_prompt], classes, labels, count


def _rank(embedder, images, prompts, language, cache_dir, model_id):
    """Ranks the correct class of each image whose class has a prompt.

    Returns:
        Tuple (int64 (n,) number of wrong classes that score at least as high as the correct one;
        counts of the prompts and images).
    """
    try:
        *arrays, count = _embed_classes(embedder, images, prompts, cache_dir, model_id)
        embeddings, image_labels, classes, labels = arrays
        return metrics.retrieval_ranks(embeddings, classes, image_labels, labels), count
    except UserError as error:
        raise UserError(f"zero_shot in {language!r}: {error}") from error


def _predict(embedder, images, prompts, language, cache_dir, model_id):
    """Returns (predicted labels (n,), labels (n,), counts) of the images that have a class."""
    try:
        *arrays, count = _embed_classes(embedder, images, prompts, cache_dir, model_id)
    except UserError as error:
        raise UserError(f"zero_shot in {language!r}: {error}") from error
    embeddings, image_labels, classes, labels = arrays
    return labels[metrics.first_best(embeddings, classes)], image_labels, count


def _score_predictions(predicted, labels):
    """Returns (values, intervals) of predicted labels."""
    hit = 100.0 * (predicted == labels)
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    # The mean of the accuracies of the classes is a mean over images with these weights.
    weighted = hit * (len(labels) / (len(sizes) * sizes[classes]))
    columns = {"top1": hit, "class_recall": weighted}
    values = {name: float(column.mean()) for name, column in columns.items()}
    return values, {name: metrics.mean_interval(column) for name, column in columns.items()}


def _items(hit):
    """Returns the items of a metric of hits, see `results.Result`."""
    return metrics.group_items(100.0 * hit, np.arange(len(hit)), len(hit))


def _score(ranks, num_classes):
    """Returns (values, intervals) of a language."""
    hits = {name: 100.0 * (ranks < k) for name, k in _TOP_K.items() if k == 1 or k < num_classes}
    values = {name: float(hit.mean()) for name, hit in hits.items()}
    return values, {name: metrics.mean_interval(hit) for name, hit in hits.items()}


class _GroupAverages:
    """Sums the hits of each image over the languages of each group, for means and intervals."""

    def __init__(self, groups, num_images):
        self.groups = {name: list(dict.fromkeys(groups[name])) for name in groups}
        self._complete, self._partial = set(), set()
        self._sums = {
            name: {key: np.zeros(num_images, np.int32) for key in _TOP_K} for name in groups
        }

    def add(self, language, ranks, is_complete):
        """Adds the ranks of a language; `is_complete`: whether no class lacks prompts."""
        (self._complete if is_complete else self._partial).add(language)
        for name, languages in self.groups.items():
            if is_complete and language in languages:
                for key, k in _TOP_K.items():
                    self._sums[name][key] += ranks < k

    def count(self, name):
        """Returns the number of languages of a group, and its missing and partial languages."""
        scored = self._complete | self._partial
        return {
            "languages": len(self.groups[name]),
            "missing": [code for code in self.groups[name] if code not in scored],
            "partial": [code for code in self.groups[name] if code in self._partial],
        }

    def is_complete(self, name):
        """Returns whether all languages of a group were scored on all classes."""
        return bool(self.groups[name]) and set(self.groups[name]) <= self._complete

    def score(self, name, num_classes):
        """Returns (values, intervals) of a complete group."""
        keys = [key for key, k in _TOP_K.items() if k == 1 or k < num_classes]
        hits = {key: 100.0 * self._sums[name][key] / len(self.groups[name]) for key in keys}
        values = {key: float(hit.mean()) for key, hit in hits.items()}
        return values, {key: metrics.mean_interval(hit) for key, hit in hits.items()}
